"""Decoders of records, made once from their type hints.

Each takes a column, which is all values of one hint that lie at one depth, as msgpack gives them, and gives their
records: a thousand entries are checked by a few passes of C code. A decoder that changes nothing gives back the very
column. Dicts of what it is given become the records' own.
"""

import collections.abc
import dataclasses
import functools
import itertools
import math
import operator
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from aot.bundle.document import Fault

Column = list[Any]
Decoder = Callable[[Column], Column]


@functools.cache
def of(hint: Any) -> Decoder:
    """The decoder of a type hint; it raises Fault."""
    return within(hint, {})


def within(hint: Any, known: Mapping[Any, Decoder]) -> Decoder:
    """The decoder of a type hint in which some hints have decoders of their own."""
    if hint in known:
        return known[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        cls = typing.cast(type, hint)
        return _records({name: within(field, known) for name, field in _fields(cls).items()}, cls)
    if origin is collections.abc.Mapping:
        return _mappings(within(arguments[1], known))
    if origin is tuple and arguments[-1] is not ...:
        return _pairs(tuple(within(argument, known) for argument in arguments))
    if origin in (tuple, collections.abc.Sequence):
        return sequences(within(arguments[0], known))
    if origin in (types.UnionType, typing.Union):
        return _union({_kind(argument): within(argument, known) for argument in arguments})
    return _SCALARS[hint]


@functools.cache
def _fields(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _kind(hint: Any) -> type:
    if dataclasses.is_dataclass(hint) or typing.get_origin(hint) is collections.abc.Mapping:
        return dict
    return typing.cast(type, typing.get_origin(hint) or hint)


def _records(steps: dict[str, Decoder], cls: type) -> Decoder:
    names = tuple(steps)
    assert names == tuple(field.name for field in dataclasses.fields(cls)), cls
    assert not hasattr(cls, "__post_init__"), cls

    check = scalars("a record", {dict})

    def decode(column: Column) -> Column:
        check(column)
        if not set(map(tuple, column)) <= {names}:
            row = next(row for row, value in enumerate(column) if tuple(value) != names)
            raise Fault(_misfit(column[row], names), row)
        for name, step in steps.items():
            _decode_field(column, name, step)
        return _made(cls, column)

    return decode


def _decode_field(column: Column, name: str, step: Decoder) -> None:
    values = list(map(operator.itemgetter(name), column))
    try:
        decoded = step(values)
    except Fault as fault:
        raise fault.under(name) from None
    if decoded is not values:
        for value, item in zip(column, decoded, strict=True):
            value[name] = item


def _made(cls: type, column: Column) -> Column:
    # The fields are all there, in order and checked; `__init__` of a frozen class would take ten times as long.
    new, put = object.__new__, object.__setattr__
    made: Column = [new(cls) for _ in column]
    for record, fields in zip(made, column, strict=True):
        put(record, "__dict__", fields)
    return made


def _misfit(value: dict[Any, Any], names: tuple[str, ...]) -> str:
    if surplus := [name for name in value if name not in names]:
        return f"unknown field {reprlib.repr(surplus[0])}; known: {', '.join(names)}"
    if missing := [name for name in names if name not in value]:
        return f"lacks the field {missing[0]!r}"
    return f"fields must be in the order {', '.join(names)}"


def _mappings(step: Decoder) -> Decoder:
    check = scalars("a mapping", {dict})

    def decode(column: Column) -> Column:
        check(column)
        for row, value in enumerate(column):
            _check_names(row, value)
        flat = [item for value in column for item in value.values()]
        try:
            decoded = step(flat)
        except Fault as fault:
            raise fault.within(column) from None
        if decoded is flat:
            return column
        items = iter(decoded)
        return [dict(zip(value, itertools.islice(items, len(value)), strict=True)) for value in column]

    return decode


def _check_names(row: int, value: dict[Any, Any]) -> None:
    if not set(map(type, value)) <= {str}:
        raise Fault("names must be strings", row)
    if (names := list(value)) != sorted(names):
        raise Fault("names must be sorted", row)


def sequences(step: Decoder) -> Decoder:
    """The decoder of arrays whose items have this one."""
    check = scalars("an array", {tuple})

    def decode(column: Column) -> Column:
        check(column)
        flat = list(itertools.chain.from_iterable(column))
        try:
            decoded = step(flat)
        except Fault as fault:
            raise fault.within(range(len(value)) for value in column) from None
        if decoded is flat:
            return column
        items = iter(decoded)
        return [tuple(itertools.islice(items, len(value))) for value in column]

    return decode


def _pairs(steps: tuple[Decoder, ...]) -> Decoder:
    check = scalars("an array", {tuple})

    def decode(column: Column) -> Column:
        check(column)
        if not set(map(len, column)) <= {len(steps)}:
            row = next(row for row, value in enumerate(column) if len(value) != len(steps))
            raise Fault(_unlike(f"an array of {len(steps)}", column[row]), row)
        parts = [list(map(operator.itemgetter(place), column)) for place in range(len(steps))]
        decoded = [_decode_part(place, part, step) for place, (part, step) in enumerate(zip(parts, steps, strict=True))]
        if all(new is old for new, old in zip(decoded, parts, strict=True)):
            return column
        return list(zip(*decoded, strict=True))

    return decode


def _decode_part(place: int, part: Column, step: Decoder) -> Column:
    try:
        return step(part)
    except Fault as fault:
        raise Fault(fault.problem, fault.row, f"[{place}]{fault.path}") from None


def _union(steps: dict[type, Decoder]) -> Decoder:
    """By the type that msgpack gives, of which no two hints of a union share one."""
    allowed = " or ".join(_WORDS[kind] for kind in steps)

    def decode(column: Column) -> Column:
        kinds = list(map(type, column))
        found = set(kinds)
        if not found <= steps.keys():
            row = next(row for row, kind in enumerate(kinds) if kind not in steps)
            raise Fault(_unlike(allowed, column[row]), row)
        if len(found) == 1:
            return steps[found.pop()](column)
        for kind in found:
            column = _decode_kind(column, [row for row, one in enumerate(kinds) if one is kind], steps[kind])
        return column

    return decode


def _decode_kind(column: Column, rows: list[int], step: Decoder) -> Column:
    values = [column[row] for row in rows]
    try:
        decoded = step(values)
    except Fault as fault:
        raise Fault(fault.problem, rows[fault.row], fault.path) from None
    if decoded is values:
        return column
    changed = dict(zip(rows, decoded, strict=True))
    return [changed.get(row, value) for row, value in enumerate(column)]


def scalars(allowed: str, kinds: set[type], holds: Callable[[Column], bool] = lambda column: True) -> Decoder:
    """The decoder of values of some types of which one thing holds; `allowed` says what may be there."""

    def decode(column: Column) -> Column:
        if not (set(map(type, column)) <= kinds and holds(column)):
            row = next(row for row, value in enumerate(column) if not (type(value) in kinds and holds([value])))
            raise Fault(_unlike(allowed, column[row]), row)
        return column

    return decode


def _free(column: Column) -> Column:
    return _FREE(column)


def _unlike(allowed: str, value: Any) -> str:
    return f"must be {allowed}, got {reprlib.repr(value)}"


_WORDS: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    type(None): "null",
    dict: "a mapping",
    tuple: "an array",
}
_SCALARS: dict[Any, Decoder] = {
    str: scalars("a string", {str}),
    int: scalars("an integer of at least 0", {int}, lambda column: min(column, default=0) >= 0),
    bool: scalars("true or false", {bool}),
    float: scalars("a finite number", {int, float}, lambda column: all(map(math.isfinite, column))),
    type(None): scalars("null", {type(None)}),
    Any: _free,  # whatever JSON can say
}
_FREE = _union(
    {
        str: _SCALARS[str],
        bool: _SCALARS[bool],
        int: scalars("an integer", {int}),
        float: _SCALARS[float],
        type(None): _SCALARS[type(None)],
        dict: _mappings(_free),
        tuple: sequences(_free),
    }
)
