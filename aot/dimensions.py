"""Dimensions: what a field of a precompile config may hold, and the words for what it may not."""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from aot import digest
from aot.errors import InputError

LARGEST = 2**31 - 1  # programs take lengths as int32
_DEFAULTS = {"batch_size": 1, "vision_included": False}


def dimension_fault(name: str, value: Any) -> str | None:
    """What is wrong with the value of a field, or None."""
    items = value if isinstance(value, (list, tuple)) else [value]
    if not items:
        return "must have a value, got []; leave it out for the default"
    if value is None:
        return None
    optional = name not in _DEFAULTS
    for item in items:
        if item is None and optional:
            continue
        if (allowed := _allowed(name, item)) is not None:
            return f"must be {allowed} or a list of such, got {value!r}"
    return None


def doubling_sizes(least: int, greatest: int) -> tuple[int, ...]:
    """Least, twice that, and so on, and the greatest."""
    for name, value in (("min", least), ("max", greatest)):
        if (allowed := _allowed("prefill_length", value)) is not None:
            raise InputError(f"precompile.prefill_length: {name} must be {allowed}, got {value!r}")
    if least > greatest:
        raise InputError(f"precompile.prefill_length: min must not be above max, got min {least} and max {greatest}")
    lengths = itertools.takewhile(lambda length: length < greatest, (least << n for n in itertools.count()))
    return (*lengths, greatest)


def unknown_key(name: object, known: Sequence[str]) -> str:
    """The words for a key that nobody knows, with the closest known one."""
    from aot import closest  # which serving does not need

    return f"unknown key {name!r}; {closest.closest_hint(name, known)}"


def _allowed(name: str, item: Any) -> str | None:
    """What an item of a field must be, where it is not."""
    if name == "vision_included":
        return None if isinstance(item, bool) else "true or false"
    if name != "required_props":
        whole = type(item) is int and 1 <= item <= LARGEST
        return None if whole else f"an integer from 1 to {LARGEST}"
    try:
        digest.canonical_json(item)
    except (TypeError, ValueError):
        item = None
    return None if isinstance(item, Mapping) else "a mapping of names to JSON values"


def stored_dimension(name: str, value: object) -> object:
    """A copy that the caller's hands cannot change; what is absent becomes the default."""
    if value is None:
        return _DEFAULTS.get(name)
    if isinstance(value, (list, tuple)):
        return tuple(stored_dimension(name, item) for item in value)
    return json.loads(digest.canonical_json(value)) if name == "required_props" else value
