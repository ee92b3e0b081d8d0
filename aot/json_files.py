"""JSON files of a checkpoint: an object each."""

import json
from pathlib import Path
from typing import Any

from aot import nesting
from aot.errors import InputError


def read_object(file: Path) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a file, and its fields. Raises OSError, and InputError where it holds no JSON object."""
    data = file.read_bytes()
    try:
        fields = json.loads(data)
        nesting.check_nesting(fields)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not JSON: {error}; fetch it again") from None
    if not isinstance(fields, dict):
        raise InputError(f"{file}: must hold a JSON object, got {type(fields).__name__}; fetch it again")
    return data, fields
