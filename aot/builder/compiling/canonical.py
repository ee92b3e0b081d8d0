"""The canonical form of XLA:CPU executables: what one program and one declared ISA give on every building machine.

A stored executable is a framed header, then `ExecutableAndOptionsProto`: 1 the compiled module (`xla.cpu.
CompilationResultProto`: 1.2.14 debug options, 6 thunks, 7 symbols, 8 object files, 9 the machine compiled for), 2 the
compile options (3.3 debug options). Two builds differ in

- the order of the object files, which is that of the threads that finished them: they are sorted;
- the machine compiled for, which names the features of the building CPU beside the declared ones: the declared
  baseline is written in its place, the psABI level as the CPU. The loader takes the data layout from it, and logs an
  error for each feature with a plus that LLVM does not find in the machine: so nothing stands there but the baseline;
- options handed through to LLVM, by which the worker pinned the compiler (`aot.builder.compiling.pin`): left out, for
  they name a file of the worker's.
"""

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import aot
from aot import wire
from aot.errors import AotError
from aot.isa import Baseline

_MODULE, _OPTIONS = 1, 2
_OBJECT, _SYMBOL, _TARGET = 8, 7, 9
_CONTENTS, _NAME = 1, 2
_TRIPLE, _CPU, _FEATURES = 1, 2, 3
_DEBUG_IN_MODULE = (_MODULE, 1, 2, 14)
_DEBUG_IN_OPTIONS = (_OPTIONS, 3, 3)
_LLVM_OPTIONS = 500
_SHORTEST_PATH = 5  # a home of `/` or `/root` is no evidence: so short a string also occurs by chance or as a name


class Target(NamedTuple):
    """The machine that an executable says it was compiled for."""

    triple: str
    cpu: str
    features: tuple[str, ...]


def executable(raw: bytes, baseline: Baseline) -> bytes:
    """The canonical bytes of an executable that XLA:CPU serialized. They load like those given.

    Raises AotError where the bytes are not built as expected: another jaxlib may build them otherwise.
    """
    with _Expecting():
        header, message = wire.framed(raw)
        message = wire.changed_within(message, (_MODULE,), _sorted_objects)
        message = wire.changed_within(message, (_MODULE, _TARGET), lambda target: _declared(target, baseline))
        for place in (_DEBUG_IN_MODULE, _DEBUG_IN_OPTIONS):
            message = wire.changed_within(message, place, _without_llvm_options)
        return header + message


def compiled_for(raw: bytes) -> Target:
    """What the bytes say of the machine compiled for: of those from XLA, the building CPU and its features."""
    with _Expecting():
        found = {number: value.decode() for number, _, value, _ in wire.fields(wire.only(_module(raw), _TARGET))}
        return Target(found[_TRIPLE], found[_CPU], tuple(found[_FEATURES].split(",")))


def objects(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """The object files of an executable: name and ELF image of each."""
    with _Expecting():
        parts = [wire.fields(part.value) for part in wire.fields(_module(raw)) if part.number == _OBJECT]
        files = [{field.number: field.value for field in part} for part in parts]
        yield from [(file.get(_NAME, b"").decode(), file[_CONTENTS]) for file in files]


def kernels(raw: bytes) -> tuple[str, ...]:
    """The names of the functions that an executable calls in its object files, sorted."""
    with _Expecting():
        symbols = [wire.fields(part.value) for part in wire.fields(_module(raw)) if part.number == _SYMBOL]
        return tuple(sorted({field.value.decode() for symbol in symbols for field in symbol if field.number == _NAME}))


def paths(data: bytes, forbidden: Iterable[str]) -> str | None:
    """The first of some directories that is named in the data, or None."""
    return next((path for path in forbidden if len(path) >= _SHORTEST_PATH and path.encode() in data), None)


def machine_paths() -> tuple[str, ...]:
    """Directories of this machine that no stored byte may name, as they are called and as they resolve."""
    found = [
        sys.prefix,
        sys.base_prefix,
        str(Path.cwd()),
        tempfile.gettempdir(),
        os.path.expanduser("~"),  # a user may have no home, and then this names none
        str(Path(aot.__file__).resolve().parents[1]),
    ]
    return tuple(sorted({name for path in found for name in (path, os.path.realpath(path))}))


def check_paths(data: bytes, place: str) -> None:
    """Raises AotError if the data name a directory of this machine."""
    if (path := paths(data, machine_paths())) is not None:
        raise AotError(
            f"{place}: its bytes name {path!r}, a directory of this machine, against none allowed; report it"
        )


class _Expecting:
    """Turns whatever says that bytes are not an executable as we know it into the error that says so."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (ValueError, KeyError)):
            raise AotError(
                f"executable: unexpected structure ({error!s}), against that of the jaxlib releases this one knows;"
                " build with a jaxlib of the constraints file"
            ) from None


def _module(raw: bytes) -> bytes:
    return wire.only(wire.framed(raw)[1], _MODULE)


def _sorted_objects(module: bytes) -> bytes:
    parts = wire.fields(module)
    at = [place for place, field in enumerate(parts) if field.number == _OBJECT]
    if at != list(range(at[0], at[0] + len(at)) if at else []):
        raise ValueError("the object files are not contiguous")
    ordered = sorted((parts[place] for place in at), key=lambda field: field.raw)
    return wire.join_fields([*parts[: at[0]], *ordered, *parts[at[-1] + 1 :]]) if at else module


def _declared(target: bytes, baseline: Baseline) -> bytes:
    found = wire.fields(target)
    if [field.number for field in found] != [_TRIPLE, _CPU, _FEATURES]:
        raise ValueError(f"the target machine has fields {[field.number for field in found]}")
    if found[0].value.split(b"-")[0] != baseline.machine.encode():
        raise ValueError(f"compiled for {found[0].value.decode()!r}, not for {baseline.machine}")
    features = ",".join(f"+{name}" for name in baseline.llvm)
    written = (wire.delimited(_CPU, baseline.level.encode()), wire.delimited(_FEATURES, features.encode()))
    return wire.join_fields([found[0], *written])


def _without_llvm_options(debug: bytes) -> bytes:
    return wire.join_fields(field for field in wire.fields(debug) if field.number != _LLVM_OPTIONS)
