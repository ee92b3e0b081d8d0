"""Files that come into being whole: written beside their place, then renamed into it."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file of a mode that takes the place of a path when the context is left; with an exception nothing changes.

    Until then it is beside it, as `.NAME.8 hex digits.partial`.
    """
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with open(hidden, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as stream:
        try:
            yield stream
            stream.flush()
            os.replace(hidden, path)
        except BaseException:
            with contextlib.suppress(OSError):
                hidden.unlink()
            raise
