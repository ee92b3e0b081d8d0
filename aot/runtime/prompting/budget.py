"""The budget of one rendering of a chat template, and what the operations of a template take of it.

A unit is a few nanoseconds, or a byte. What an operation takes is spent before it is done, so that none begins that the
budget does not hold.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import runtime, utils

_BUDGET = 100_000_000  # a second at most; a template of a real model takes a thousandth of it
_EACH = 1000  # more for each unit that is rendered: templates look at all messages for every message
_MOST = 1_000_000_000  # however much is rendered: some seconds
CALL = 1000
ITEM = 300
_CHARACTER = 4  # which it may have bytes
_SHARE = 1024  # of the square of what a slow filter takes, which one step of it is worth
_BITS = 4096  # of an integer
_DIGITS = 9  # of the width of a field
_FIELD = re.compile(r"%(\([^)]{0,200}\))?[^a-zA-Z%]*|\{([^{}]|\{[^{}]*\})*\}")
"""A place of a pattern for a value, as `%` and `format` spell it."""

_SHALLOW = {"length", "count", "first", "last", "default", "d", "list", "reverse", "items"}
"""Filters that never look into the items of what they take."""
_EACH_ITEM = {"map", "select", "selectattr", "reject", "rejectattr", "batch", "slice"}
"""Filters that do the same to every item."""
_MULTIPLYING = {"join", "indent", "tojson", "expandtabs", "translate"}
"""Filters and methods of strings whose result may be as long as what they take times an argument."""
_SLOW = {"pprint", "striptags", "sum", "urlize", "wordwrap"}
"""Filters that may look at all they took for each part of it."""
_ATOMS = (str, int, float, bool, type(None))


class ExhaustedError(Exception):
    """A template took more than its budget."""


_left: ContextVar[list[int]] = ContextVar("left")


@contextmanager
def budget_for(given: Any) -> Iterator[None]:
    """The budget for rendering some values: in it `spend` and `weigh` can be called."""
    token = _left.set([1 << 62])
    try:
        _left.get()[0] = min(_BUDGET + _EACH * weigh(given), _MOST)
        yield
    finally:
        _left.reset(token)


def spend(units: int) -> None:
    """Takes some units. Raises ExhaustedError where there are not that many."""
    left = _left.get()
    left[0] -= units
    if left[0] < 0:
        raise ExhaustedError("it takes more time or memory than a chat template may")


def weigh(value: Any) -> int:
    """Spends what a value is worth with all that is in it, and gives that."""
    units = weight(value)
    spend(units)
    return units if type(value) in _ATOMS else units + sum([weigh(item) for item in _items(value)])


def weight(value: Any) -> int:
    """What a value is worth by itself."""
    if isinstance(value, str):
        return 1 + _CHARACTER * len(value)
    if isinstance(value, int):
        return 1 + value.bit_length()
    return 1 + ITEM * len(value) if isinstance(value, Collection) else 1


def _items(value: Any) -> Iterable[Any]:
    if type(value) is list:
        return value
    if isinstance(value, str):
        return ()
    if isinstance(value, utils.Namespace):
        value = object.__getattribute__(value, "_Namespace__attrs")
    if isinstance(value, Mapping):
        return (*value.keys(), *value.values())
    return value if isinstance(value, Collection) and not isinstance(value, range) else ()


def list_iterator(value: object) -> object:
    """The value, or where it is an iterator, which has no size, a list of what it gives."""
    if isinstance(value, runtime.LoopContext) or not isinstance(value, Iterator):
        return value
    return [item for item in value if spent(ITEM)]


def spent(units: int) -> bool:
    """True once some units are spent, for a place in an expression."""
    spend(units)
    return True


def spend_for(name: str, value: Any, others: Sequence[Any]) -> None:
    """Takes from the budget what a filter, or a method of a string, costs with its arguments."""
    if name in _SHALLOW:
        return spend(0 if name in ("length", "count") else weight(value))
    added = sum(map(weigh, others)) + sum(map(_integers, others))
    if name in _EACH_ITEM:  # a text is compared with another in one step
        return spend(weight(value) * (added if any(not isinstance(each, str) for each in others) else 1))
    if name == "format":
        return spend(_filling(str(value), others))
    if name == "replace" and isinstance(value, str) and len(others) > 1:
        return spend(weight(value) + value.count(str(others[0])) * weight(str(others[1])))
    worth = weigh(value)
    return spend(worth * added if name in _MULTIPLYING else worth * worth // _SHARE if name in _SLOW else added)


def spend_for_operator(operator: str, left: Any, right: Any) -> None:
    """Takes from the budget what the result of an operator is worth, or more."""
    if isinstance(left, str) and operator == "%":
        return spend(_filling(left, right if isinstance(right, tuple) else (right,)))
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(1, right) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _BITS:
            raise ExhaustedError(f"it makes a number of more than {_BITS} bits")
    times = max([1, *(each for each in (left, right) if isinstance(each, int))]) if operator == "*" else 1
    return spend((weight(left) + weight(right)) * times)


def _filling(pattern: str, values: Sequence[Any]) -> int:
    """What filling values into a pattern is worth, or more: each field may be all of them, at the width it names."""
    spend(ITEM * (pattern.count("%") + pattern.count("{")))
    fields = [found[0] for found in _FIELD.finditer(pattern)]
    widths = [digits for field in fields for digits in re.findall("[0-9]+", field)]
    if any(len(digits) > _DIGITS for digits in widths):
        raise ExhaustedError(f"it fills in a value at a width of more than {_DIGITS} digits")
    worth = sum(map(weigh, values)) + sum(map(int, widths)) + sum(map(_integers, values))
    return (len(fields) + 1) * worth + weight(pattern)


def _integers(value: Any) -> int:
    """The sum of all integers in a value, each of which a field may be as wide as."""
    return abs(value) if isinstance(value, int) else sum(map(_integers, _items(value)))
