"""What a measured process of a bundle is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from aot.runtime.verification import Verify


@dataclass(frozen=True)
class Trial:
    """A prompt to answer, and how."""

    prompt: tuple[int, ...]
    new_tokens: int
    verify: Verify
    """When weights are checked, as for `aot.load`."""
    props: Mapping[str, Any] | None
    """The `required_props` of the entries to use."""

    def argument(self) -> str:
        """The trial as one argument of a command line, which `trial_of` reads."""
        return msgspec.json.encode(self).decode()


def trial_of(argument: str) -> Trial:
    """The trial in an argument of this process."""
    return msgspec.json.decode(argument, type=Trial)
