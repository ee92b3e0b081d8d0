"""Tunings: what XLA's autotuner chose for the programs of a target on its device, in a file that builds replay.

It works like a lock file: `aot tune` writes it where the device is, `aot build` reads it anywhere and adds nothing.
"""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aot import strict_json
from aot.errors import InputError

TUNING_FORMAT = 1
ADVICE = "run `aot tune` with the manifest on a machine that has the device"

_FIELDS = {"format": int, "device": str, "choices": list}
_CHOICE = {"hlo": list, "version": int, "result": str}


@dataclass(frozen=True, order=True)
class Choice:
    """One operation and how it is computed."""

    hlo: str
    """The operation in the spelling by which XLA's autotuner looks it up."""
    version: int
    """XLA's version of that spelling and of what there is to choose; it heeds no choice of another version."""
    result: str
    """XLA's AutotuneResult as text, without what was measured."""


@dataclass(frozen=True)
class Tuning:
    """The choices for all programs of a target, in order; no operation twice."""

    device: str
    """The device as targets name it."""
    choices: tuple[Choice, ...]

    def to_bytes(self) -> bytes:
        """The one spelling of it: JSON, a line for each line of an operation."""
        rows = [{"hlo": c.hlo.split("\n"), "version": c.version, "result": c.result} for c in self.choices]
        plain = {"format": TUNING_FORMAT, "device": self.device, "choices": rows}
        return json.dumps(plain, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"


def tuning_of(device: str, choices: Iterable[Choice]) -> Tuning:
    """The tuning with these choices. Raises ValueError for what no build could replay."""
    ordered = tuple(sorted(choices))
    for before, after in itertools.pairwise(ordered):
        if before.hlo == after.hlo:
            raise ValueError(f"two choices for one operation, {_shown(after.hlo)}")
    for choice in ordered:
        # Such a fusion is compiled by cuDNN itself, on the device; without one XLA leaves it out of the executable.
        if choice.hlo.startswith("{") and '"CUDNN"' in choice.result:
            raise ValueError(f"cuDNN was chosen for the fusion {_shown(choice.hlo)}, which needs the device to compile")
    return Tuning(device, ordered)


def read_tuning(path: Path, device: str) -> Tuning:
    """The tuning in a file, for a device. Raises InputError where it is none, or that of another device."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: is not there; {ADVICE}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a file that can be read") from None
    return parse_tuning(data, device, str(path))


def parse_tuning(data: bytes, device: str, where: str) -> Tuning:
    """The tuning in some bytes, for a device. Raises InputError."""
    try:
        found = _tuning(strict_json.parse_strictly(data))
    except ValueError as error:
        raise InputError(f"{where}: is no tuning: {error}; remove it, and {ADVICE}") from None
    if found.device != device:
        raise InputError(
            f"{where}: was tuned on {found.device!r}, the target is {device!r}; name another file, or remove it and "
            f"{ADVICE}"
        )
    return found


def _tuning(plain: Any) -> Tuning:
    fields = strict_json.expect(plain, "it", _FIELDS)
    if fields["format"] != TUNING_FORMAT:
        raise ValueError(f"format must be {TUNING_FORMAT}, got {fields['format']}")
    rows = [strict_json.expect(row, f"choices[{i}]", _CHOICE) for i, row in enumerate(fields["choices"])]
    for i, row in enumerate(rows):
        if not row["hlo"] or not all(type(line) is str for line in row["hlo"]):
            raise ValueError(f"choices[{i}].hlo must be a list of lines")
    return tuning_of(fields["device"], (Choice("\n".join(row["hlo"]), row["version"], row["result"]) for row in rows))


def _shown(hlo: str) -> str:
    """The result of an operation, in one line."""
    return " ".join(hlo.split("ROOT ")[-1].split())[:80]
