"""The index as bytes and back: canonical msgpack, read strictly by the type hints of the records.

A record is a map of its fields in order of declaration, a mapping is a map sorted by name, a tuple is an array, and a
`Sequence` is an array of documents: each of its records is a msgpack of its own, as binary data, that is read when it
is used. Most arguments and results of programs occur in many of them, so an index ends with one more field: documents
of the distinct ones, in order of first use, and programs have positions in it for them. There is one spelling of an
index: whatever else would decode to it is refused.
"""

import collections.abc
import dataclasses
import functools
import reprlib
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import msgpack

from aot import digest
from aot.bundle import consistency, decoders, document
from aot.bundle.decoders import Decoder
from aot.bundle.document import Fault
from aot.bundle.records import FORMAT, ArgumentRecord, ChainRecord, Index, ProgramRecord
from aot.bundle.tables import Rule, Table
from aot.errors import MachineError

_ARGUMENTS = "arguments"
_DOCUMENTS = decoders.sequences(decoders.scalars("a document as binary data", {bytes}))


def encode(index: Index) -> bytes:
    """The canonical bytes of an index; equal indexes give equal bytes."""
    known: dict[ArgumentRecord, int] = {}

    def places(arguments: tuple[ArgumentRecord, ...]) -> list[int]:
        return [known.setdefault(argument, len(known)) for argument in arguments]

    bare = plain(dataclasses.replace(index, programs=(), entries=()))
    programs = [
        plain(dataclasses.replace(program, arguments=(), results=()))
        | {"arguments": places(program.arguments), "results": places(program.results)}
        for program in index.programs
    ]
    entries = [
        plain(dataclasses.replace(entry, chains=())) | {"chains": _rows(plain(entry.chains))} for entry in index.entries
    ]
    more = {"programs": _rows(programs), "entries": entries, _ARGUMENTS: _rows(map(plain, known))}
    return document.pack(bare | more)


def decode(data: bytes, where: str) -> Index:
    """The index in some bytes, whose programs and chains are read and checked when they are used, by `check` all.

    Raises BundleError with the path of the first fault, and so does what is used later; MachineError for a newer
    format.
    """
    try:
        _check_format(data, where)
        index = _index(document.unpack(data), where)
        consistency.check(index)
    except Fault as fault:
        raise document.refusal(f"{where}: {fault.path.removeprefix('.')}" if fault.path else where, fault) from fault
    except (ValueError, RecursionError) as error:
        raise document.refusal(where, error) from error
    _guard(index.programs, f"{where}: programs", consistency.program)
    for i, entry in enumerate(index.entries):
        _guard(entry.chains, f"{where}: entries[{i}].chains", functools.partial(consistency.chain, index))
    return index


def check(index: Index, name: str, where: str) -> None:
    """Reads all of a decoded index, and checks what holds between its rows, and that its bytes, of this digest, are
    those that `encode` gives. Raises BundleError.
    """
    try:
        consistency.check_rows(index)
    except ValueError as error:
        raise document.refusal(where, error) from error
    if digest.of(encode(index)) != name:
        problem = "must be those of programs, each once, in order of first use"
        raise document.refusal(f"{where}: {_ARGUMENTS}", Fault(problem))


def plain(value: Any) -> Any:
    """A value made of records as plain maps and arrays; `decoders.of` reads it back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, collections.abc.Mapping):
        return {name: plain(item) for name, item in sorted(value.items())}
    if isinstance(value, (tuple, list, Table)):
        return [plain(item) for item in value]
    return value


def _rows(values: Iterable[Any]) -> list[bytes]:
    return list(map(document.pack, values))


def _index(raw: dict[Any, Any], where: str) -> Index:
    if _ARGUMENTS not in raw or list(raw)[-1] != _ARGUMENTS:
        raise Fault(f"must end with the field {_ARGUMENTS!r}")
    (rows,) = _attempt(_ARGUMENTS, [raw.pop(_ARGUMENTS)])
    arguments = Table(rows, decoders.of(ArgumentRecord))
    arguments.guard(f"{where}: {_ARGUMENTS}", consistency.argument)
    program = decoders.within(ProgramRecord, {ArgumentRecord: _named(arguments)})
    known = {Sequence[ProgramRecord]: _tables(program), Sequence[ChainRecord]: _tables(decoders.of(ChainRecord))}
    index: Index = decoders.within(Index, known)([raw])[0]
    return index


def _attempt(name: str, column: list[Any]) -> list[tuple[bytes, ...]]:
    try:
        return _DOCUMENTS(column)
    except Fault as fault:
        raise fault.under(name) from None


def _tables(step: Decoder) -> Decoder:
    return lambda column: [Table(rows, step) for rows in _DOCUMENTS(column)]


def _named(arguments: Table[ArgumentRecord]) -> Decoder:
    """Of the positions of arguments, their records."""
    count = len(arguments)
    check = decoders.scalars(
        f"a position in {_ARGUMENTS}, of which there are {count}",
        {int},
        lambda column: min(column, default=0) >= 0 and max(column, default=-1) < count,
    )
    return lambda column: [arguments[position] for position in check(column)]


def _guard(rows: Sequence[Any], place: str, rule: Rule) -> None:
    typing.cast(Table[Any], rows).guard(place, rule)


def _check_format(data: bytes, where: str) -> None:
    """Reads no further than the first pair, which keeps its place in every format version."""
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=64, max_str_len=16)
    unpacker.feed(data[:64])
    try:
        unpacker.read_map_header()
        first, found = unpacker.unpack(), unpacker.unpack()
    except (msgpack.UnpackException, ValueError) as error:
        raise Fault("does not begin with its format version") from error
    if first != "format" or type(found) is not int or found < 1:
        raise Fault(f"must begin with its format version, got {reprlib.repr(first)}: {reprlib.repr(found)}")
    if found > FORMAT:
        raise MachineError(
            f"{where}: has format version {found}, this aot reads up to {FORMAT}; install a newer jax-aot"
        )
