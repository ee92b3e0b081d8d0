"""The index as bytes and back: canonical msgpack, read strictly by the types of the records.

A record is a map of its fields in order of declaration, a mapping is a map sorted by name, a tuple is an array, and a
`Sequence` is an array of documents: each of its records is a msgpack of its own, as binary data. Most arguments and
results of programs occur in many of them, so an index ends with one more field: documents of the distinct ones, in
order of first use, and programs have positions in it for them. There is one spelling of an index: whatever else would
decode to it is refused.

Read by msgspec and proven whole, 111 programs take 15 ms and 10,000 0.7 s (AMD EPYC, 2 cores, jax 0.12.0.1, busy); a
decoder of ours by type hints took 25 ms and 7.8 s. To import msgspec takes 20 ms where msgpack takes 2: to the first
token of the tiny model it is 1.18 s for 1.12, in turn.
"""

import collections.abc
import dataclasses
import gc
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from aot.bundle.index import consistency, document
from aot.bundle.index.bounds import Index32, Positive
from aot.bundle.index.document import Fault
from aot.bundle.index.records import (
    FORMAT,
    ArgumentRecord,
    ChainRecord,
    ComboRecord,
    EntryRecord,
    ExecutableRecord,
    Index,
    ProgramRecord,
)
from aot.errors import MachineError

T = TypeVar("T")
_ARGUMENTS = "arguments"
_ROWS = tuple[bytes, ...]
_POSITIONS = tuple[Index32, ...]


class _Shape(NamedTuple):
    """The fields of a record, and those of them that hold what JSON can say."""

    names: tuple[str, ...]
    free: tuple[str, ...]


_SHAPES: dict[Any, _Shape] = {}


def _stored(cls: type, omitted: str = "", /, **changed: Any) -> Any:
    """The type of a record as it is stored: some fields are others, `Any` is read later, nothing has a default.

    But the field that may be `omitted` is left out where it is None.
    """
    hints = {field.name: field.type for field in dataclasses.fields(cls)}
    free = tuple(name for name, hint in hints.items() if hint == Mapping[str, Any])
    kinds = hints | changed | dict.fromkeys(free, msgspec.Raw)
    listed = [(name, kind, None) if name == omitted else (name, kind) for name, kind in kinds.items()]
    made = msgspec.defstruct(f"Stored{cls.__name__}", listed, forbid_unknown_fields=True, omit_defaults=True, gc=False)
    _SHAPES[cls] = _SHAPES[made] = _Shape(tuple(hints), free)
    return made


_Argument: Any = _stored(ArgumentRecord)
_Executable: Any = _stored(ExecutableRecord)
_Program: Any = _stored(ProgramRecord, arguments=_POSITIONS, results=_POSITIONS, executables=tuple[_Executable, ...])
_Chain: Any = _stored(ChainRecord, "repeat")
_Entry: Any = _stored(EntryRecord, chains=_ROWS)
_Combo: Any = _stored(ComboRecord)
_Index: Any = _stored(Index, combos=tuple[_Combo, ...], programs=_ROWS, entries=tuple[_Entry, ...], arguments=_ROWS)


class _Format(msgspec.Struct):
    """What keeps its place in every format version."""

    format: Positive


def encode(index: Index) -> bytes:
    """The canonical bytes of an index; equal indexes give equal bytes."""
    known: dict[ArgumentRecord, int] = {}

    def places(arguments: tuple[ArgumentRecord, ...]) -> tuple[int, ...]:
        return tuple([known.setdefault(argument, len(known)) for argument in arguments])

    programs = [
        _lowered(
            _Program,
            program,
            arguments=places(program.arguments),
            results=places(program.results),
            executables=tuple(_lowered(_Executable, made) for made in program.executables),
        )
        for program in index.programs
    ]
    entries = tuple(
        _lowered(_Entry, entry, chains=_rows(_lowered(_Chain, chain) for chain in entry.chains))
        for entry in index.entries
    )
    combos = tuple(_lowered(_Combo, combo) for combo in index.combos)
    rows = {"programs": _rows(programs), _ARGUMENTS: _rows(known)}
    return document.pack(_lowered(_Index, index, combos=combos, entries=entries, **rows))


def decode(data: bytes, where: str) -> Index:
    """The index in some bytes: consistent, and with no other spelling.

    Raises BundleError with the path of the first fault; MachineError for a newer format.
    """
    return _decoded(data, where, consistency.check_index)


def decode_part(data: bytes, where: str) -> Index:
    """A part of an index in some bytes, which need not agree with what it lacks. Raises as `decode`."""
    return _decoded(data, where, lambda index: None)


def _decoded(data: bytes, where: str, check: Callable[[Index], None]) -> Index:
    collects = gc.isenabled()
    gc.disable()  # none of this is a circle, and to look for them among all that was imported takes longer than reading
    try:
        _check_format(data, where)
        index = _index(document.unpack(_Index, data))
        check(index)
    except Fault as fault:
        raise document.refusal(where, fault) from fault
    finally:
        if collects:
            gc.enable()
    return index


def plain(value: Any) -> Any:
    """A value made of records as plain maps and arrays; `restored` reads it back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, collections.abc.Mapping):
        return {name: plain(item) for name, item in sorted(value.items())}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def restored(cls: type[T], value: Any) -> T:
    """The records of a type hint in what `plain` made of them, read back from msgpack with tuples for arrays."""
    return msgspec.convert(value, cls)


def _rows(values: Iterable[Any]) -> tuple[bytes, ...]:
    return tuple(map(document.pack, values))


def _lowered(kind: Any, record: Any, **changed: Any) -> Any:
    """A record as it is stored."""
    fields = {name: getattr(record, name) for name in kind.__struct_fields__ if name not in changed}
    free = {name: msgspec.Raw(document.pack(fields[name])) for name in _SHAPES[kind].free}
    return kind(**fields | free | changed)


def _raised(cls: type[T], stored: Any, **changed: Any) -> T:
    """The record that is stored so."""
    fields = {name: getattr(stored, name) for name in _SHAPES[cls].names if name not in changed}
    for name in _SHAPES[cls].free:
        fields[name] = _within(f".{name}", document.mapping, fields[name])
    return cls(**fields | changed)


def _index(stored: Any) -> Index:
    arguments = tuple([_raised(ArgumentRecord, row) for row in _table(f".{_ARGUMENTS}", stored.arguments, _Argument)])
    rows = _table(".programs", stored.programs, _Program)
    _check_positions(stored.arguments, rows)
    programs = (_within(f".programs[{i}]", _program, row, arguments) for i, row in enumerate(rows))
    entries = (
        _raised(EntryRecord, entry, chains=_chains(f".entries[{i}].chains", entry.chains))
        for i, entry in enumerate(stored.entries)
    )
    combos = (_within(f".combos[{i}]", _raised, ComboRecord, combo) for i, combo in enumerate(stored.combos))
    return _raised(Index, stored, combos=tuple(combos), programs=tuple(programs), entries=tuple(entries))


def _chains(place: str, rows: Iterable[bytes]) -> tuple[ChainRecord, ...]:
    return tuple([_raised(ChainRecord, row) for row in _table(place, rows, _Chain)])


def _table(place: str, rows: Iterable[bytes], kind: Any) -> tuple[Any, ...]:
    return tuple([_within(f"{place}[{i}]", document.unpack, kind, row) for i, row in enumerate(rows)])


def _check_positions(arguments: tuple[bytes, ...], programs: Iterable[Any]) -> None:
    """There is one order of arguments, and each is there once."""
    for i, program in enumerate(programs):
        for kind, places in (("arguments", program.arguments), ("results", program.results)):
            if max(places, default=-1) >= len(arguments):
                problem = f"must be positions in {_ARGUMENTS}, of which there are {len(arguments)}"
                raise Fault(problem, f".programs[{i}].{kind}")
    used = itertools.chain.from_iterable((*program.arguments, *program.results) for program in programs)
    if list(dict.fromkeys(used)) != list(range(len(arguments))) or len(set(arguments)) < len(arguments):
        raise Fault("must be those of programs, each once, in order of first use", f".{_ARGUMENTS}")


def _program(stored: Any, arguments: tuple[ArgumentRecord, ...]) -> ProgramRecord:
    executables = (
        _within(f".executables[{i}]", _raised, ExecutableRecord, made) for i, made in enumerate(stored.executables)
    )
    return _raised(
        ProgramRecord,
        stored,
        arguments=tuple([arguments[position] for position in stored.arguments]),
        results=tuple([arguments[position] for position in stored.results]),
        executables=tuple(executables),
    )


def _within(place: str, read: Callable[..., T], *given: Any) -> T:
    """What is read at a place, to which the path of a fault is seen from above."""
    try:
        return read(*given)
    except Fault as fault:
        raise fault.under(place) from None


def _check_format(data: bytes, where: str) -> None:
    """Reads no other field, for those of another format may be any."""
    try:
        found = document.peek(_Format, data).format
    except Fault as fault:
        raise Fault(f"must begin with its format version ({fault.problem})") from fault
    if found > FORMAT:
        raise MachineError(
            f"{where}: has format version {found}, this aot reads up to {FORMAT}; install a newer jax-aot"
        )
