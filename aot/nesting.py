"""A bound on how deeply values from strangers are nested, so that no function that follows them runs out of stack."""

from collections.abc import Iterable
from typing import Any

_DEEPEST = 64  # what people write has a dozen levels at most


def check_nesting(value: Any) -> None:
    """Raises ValueError for JSON that is nested too deeply."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [item for each in level for item in _within(each)]
    if level:
        raise ValueError(f"nested more than {_DEEPEST} levels deep")


def _within(value: Any) -> list[Any]:
    items: Iterable[Any] = ()
    if isinstance(value, dict):
        items = value.values()
    elif isinstance(value, list):
        items = value
    return [item for item in items if isinstance(item, dict | list)]
