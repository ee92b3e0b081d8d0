"""JSON from strangers: what has two readings, or none, is a ValueError."""

import collections
import json
import math
import reprlib
from typing import Any, NoReturn


def parse_strictly(data: bytes) -> object:
    """The value of some JSON. Raises ValueError for duplicate names, NaN, infinities and what is not JSON in UTF-8."""
    try:
        text = data.decode("utf-8")
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def expect(
    value: Any, where: str, required: dict[str, type], optional: dict[str, type] | None = None
) -> dict[str, Any]:
    """The value, if it is an object of these fields and types. Raises ValueError for a surplus or a missing field."""
    types = required | (optional or {})
    if type(value) is not dict:
        raise ValueError(f"{where} must be an object, got {reprlib.repr(value)}")
    if surplus := [name for name in value if name not in types]:
        raise ValueError(f"{where} has the unknown field {reprlib.repr(surplus[0])}; known: {', '.join(types)}")
    if missing := [name for name in required if name not in value]:
        raise ValueError(f"{where} lacks the field {missing[0]!r}")
    for name, item in value.items():
        if type(item) is not types[name]:
            raise ValueError(f"{where}.{name} must be of type {types[name].__name__}, got {reprlib.repr(item)}")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"the name {reprlib.repr(twice)} occurs twice")
    return value


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number:.40} is beyond a float")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")
