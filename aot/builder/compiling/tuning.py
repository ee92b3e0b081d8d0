"""Tunings on their way through a build: from files into blobs, and from blobs to XLA, which takes them as text.

From `stored` on a target names its tuning by the record of its blob instead of by a path, so that what a build makes
depends on the choices and not on where they lay.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aot import devices, tuning
from aot.builder.compiling import cuda
from aot.bundle.index.records import BlobRecord
from aot.bundle.writer import Writer
from aot.errors import AotError
from aot.targets import CudaTarget, Target
from aot.tuning import Choice, Tuning

Field = tuple[str, "str | list[Field]"]
"""One field of a protobuf message as text: its name, and a scalar as it is written or a message."""

RESULTS = 3
"""Version of XLA's file; XLA refuses another."""
_MEASURED = {"run_time", "scratch_bytes"}
_TOKEN = re.compile(r'\s*("(?:[^"\\\n]|\\.)*"|\[[^]\s]*]|[-+.\w]+|[{}:])')
_MISSED = re.compile(r"No cached config found for HLO instr: (%\S+)")


def stored_targets(targets: Iterable[Target], writer: Writer) -> tuple[Target, ...]:
    """The targets with the tunings that they name by path in the writer. Raises InputError for one that is none."""
    return tuple(_stored(target, writer) for target in targets)


def path(target: Target) -> Path | None:
    """Where the tuning of a planned target lies; None for one that names none."""
    return Path(target.tuning) if isinstance(target, CudaTarget) and isinstance(target.tuning, str) else None


def tuning_blob(target: Target) -> BlobRecord | None:
    """The blob of a target's tuning."""
    found = target.tuning if isinstance(target, CudaTarget) else None
    return BlobRecord(**found) if isinstance(found, Mapping) else None


def without(target: Target) -> Target:
    """The target itself, as it is recorded."""
    return replace(target, tuning=None) if isinstance(target, CudaTarget) else target


def with_tuning(target: Target, blob: BlobRecord | None) -> Target:
    """A recorded target with its tuning."""
    return replace(target, tuning=vars(blob)) if blob is not None and isinstance(target, CudaTarget) else target


def lay(data: bytes, device: str) -> None:
    """Writes the bytes of a tuning where XLA looks for its choices in this process. Raises InputError."""
    found = tuning.parse_tuning(data, device, f"target cuda {device}: tuning")
    model = cuda.model(devices.find_gpu(device))
    rows = (
        f"results {{ device: {json.dumps(model)} hlo: {json.dumps(choice.hlo)} version: {choice.version} "
        f"result {{ {choice.result} }} }}"
        for choice in found.choices
    )
    Path(cuda.REPLAYED).write_text("\n".join([f"version: {RESULTS}", *rows, ""]), encoding="utf-8")


def missed(cause: str) -> str | None:
    """The operation for which XLA says that there is no choice; None where it says something else."""
    found = _MISSED.search(cause)
    return found[1] if found else None


def collected(text: str, device: str) -> Tuning:
    """What XLA wrote of its choices, as the tuning of a device. Raises AotError for what is not as expected."""
    try:
        fields = _message(iter(_tokens(text)))
        if (version := dict(fields).get("version")) != str(RESULTS):
            raise ValueError(f"version must be {RESULTS}, got {version}")
        rows = [dict(_nested(value)) for name, value in fields if name == "results"]
        if len(models := {str(row["device"]) for row in rows}) > 1:
            raise ValueError(f"choices of more than one kind of device: {', '.join(sorted(models))}")
        return tuning.tuning_of(device, map(_choice, rows))
    except (KeyError, SyntaxError, StopIteration, TypeError, ValueError) as error:
        raise AotError(f"target cuda {device}: what XLA chose is not as expected: {error}; report it") from error


def _stored(target: Target, writer: Writer) -> Target:
    if (place := path(target)) is None:
        return target
    return with_tuning(target, writer.add(tuning.read_tuning(place, target.name).to_bytes()))


def _choice(row: Mapping[str, Any]) -> Choice:
    result = [field for field in _nested(row["result"]) if field[0] not in _MEASURED]
    hlo = ast.literal_eval(f"b{row['hlo']}").decode()  # escapes are those of C
    return Choice(hlo, int(row["version"]), _spelled(result).strip())


def _nested(value: str | list[Field]) -> list[Field]:
    if not isinstance(value, list):
        raise TypeError(f"{value} where a message is expected")
    return value


def _spelled(fields: list[Field]) -> str:
    return "".join(f"{n}: {v} " if isinstance(v, str) else f"{n} {{ {_spelled(v)}}} " for n, v in fields)


def _tokens(text: str) -> Iterator[str]:
    at, end = 0, len(text.rstrip())
    while at < end:
        if (found := _TOKEN.match(text, at)) is None:
            raise ValueError(f"no protobuf as text at character {at}")
        yield found[1]
        at = found.end()


def _message(tokens: Iterator[str], inner: bool = False) -> list[Field]:
    """The fields up to the end of a message, or of all."""
    fields: list[Field] = []
    for name in tokens:
        if name == "}" and inner:
            return fields
        mark = next(tokens)
        if mark not in (":", "{"):
            raise ValueError(f"{mark} after {name}")
        fields.append((name, next(tokens) if mark == ":" else _message(tokens, True)))
    if inner:
        raise ValueError("it ends within a message")
    return fields
