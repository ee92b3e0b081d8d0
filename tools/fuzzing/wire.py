"""The index of a bundle as plain values, to be changed, and as bytes again: in the form that aot writes.

A program has its arguments and results themselves, not their positions, so that they can be changed one by one.
"""

import collections.abc
import dataclasses
import functools
import types
import typing
from collections.abc import Iterator
from typing import Any

import msgpack

from aot import digest
from aot.bundle import oci
from aot.bundle.index.records import Index

Plain = dict[str, Any]
_CONTRACT = ("arguments", "results")


def opened(data: bytes) -> Plain:
    """The index in some bytes."""
    value = msgpack.unpackb(data)
    contract = value.pop("arguments")
    value["programs"] = list(map(msgpack.unpackb, value["programs"]))
    for program in value["programs"]:
        program |= {kind: [msgpack.unpackb(contract[position]) for position in program[kind]] for kind in _CONTRACT}
    for entry in value["entries"]:
        entry["chains"] = list(map(msgpack.unpackb, entry["chains"]))
    return value


def closed(value: Plain, *, ordered: bool = True) -> bytes:
    """The bytes of an index, whatever has become of it; in canonical order unless that is what shall be wrong."""
    whole = _in_order(value, Index) if ordered else value
    known: dict[bytes, int] = {}
    whole = {name: _contracts(item, known) if name == "programs" else item for name, item in whole.items()}
    if isinstance(whole.get("programs"), list):
        whole["programs"] = list(map(msgpack.packb, whole["programs"]))
    if isinstance(whole.get("entries"), list):
        whole["entries"] = list(map(_packed_chains, whole["entries"]))
    return msgpack.packb({**whole, "arguments": list(known)})


def layers(value: Plain) -> Iterator[oci.Descriptor]:
    """Every blob that an index names by a digest, once, as the image manifest is to list it."""
    seen: set[str] = set()
    for role, record in _blobs(value):
        name, size = record.get("digest"), record.get("bytes")
        if digest.is_digest(name) and name not in seen:
            seen.add(name)
            yield oci.Descriptor(name, size if type(size) is int else 0, oci.LAYERS[role])


def renamed(value: Any, old: str, new: str, size: int) -> None:
    """Has every record of a blob name another one."""
    for item in _items(value):
        renamed(item, old, new, size)
    if isinstance(value, dict) and value.get("digest") == old:
        value |= {"digest": new, "bytes": size}


def _blobs(value: Plain) -> Iterator[tuple[str, Plain]]:
    programs = _records(value.get("programs"))
    yield from (("program", program) for program in programs)
    for program in programs:
        for executable in _records(program.get("executables")):
            yield "executable", executable
            if isinstance(executable.get("tuning"), dict):
                yield "tuning", executable["tuning"]
    weights = value.get("weights")
    yield from (("weights", blob) for blob in _records(weights.get("blobs") if isinstance(weights, dict) else None))
    files = value.get("tokenizer")
    named = sorted(files.items()) if isinstance(files, dict) else ()
    yield from (("tokenizer", blob) for _, blob in named if isinstance(blob, dict))


def _records(value: Any) -> list[Plain]:
    return [item for item in _items(value) if isinstance(item, dict)] if isinstance(value, list) else []


def _items(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _contracts(programs: Any, known: dict[bytes, int]) -> Any:
    return [_contract(program, known) for program in programs] if isinstance(programs, list) else programs


def _contract(program: Any, known: dict[bytes, int]) -> Any:
    if not isinstance(program, dict):
        return program
    lists = {kind: program[kind] for kind in _CONTRACT if isinstance(program.get(kind), list)}
    positions = {
        kind: [known.setdefault(msgpack.packb(array), len(known)) for array in arrays] for kind, arrays in lists.items()
    }
    return program | positions


def _packed_chains(entry: Any) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get("chains"), list):
        return entry
    return entry | {"chains": list(map(msgpack.packb, entry["chains"]))}


def _in_order(value: Any, hint: Any) -> Any:
    """A value with the fields of records as they are declared, and the names of mappings sorted."""
    if isinstance(value, dict):
        return _sorted(value, _of_kind(hint, dict))
    if isinstance(value, list):
        inner = [each for each in typing.get_args(_of_kind(hint, list)) if each is not ...] or [Any]
        return [_in_order(item, inner[i] if i < len(inner) else inner[-1]) for i, item in enumerate(value)]
    return value


def _sorted(value: Plain, hint: Any) -> Plain:
    if not dataclasses.is_dataclass(hint):
        of = (*typing.get_args(hint), Any, Any)[1]
        return {name: _in_order(value[name], of) for name in sorted(value)}
    fields = _fields(hint)
    names = [*(name for name in fields if name in value), *(name for name in value if name not in fields)]
    return {name: _in_order(value[name], fields.get(name, Any)) for name in names}


@functools.cache
def _fields(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


@functools.cache
def _of_kind(hint: Any, kind: type) -> Any:
    """That of the hints of a union which is of a mapping, or of a list; Any where none is."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return next((each for each in typing.get_args(hint) if _of_kind(each, kind) is not typing.Any), typing.Any)
    if kind is dict:
        return hint if dataclasses.is_dataclass(hint) or origin is collections.abc.Mapping else typing.Any
    return hint if origin in (tuple, collections.abc.Sequence) else typing.Any
