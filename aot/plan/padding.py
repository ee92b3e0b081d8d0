"""Remarks on buckets that lie far apart: requests that a plan can serve only with more than twice their size."""

import itertools
from collections.abc import Iterable, Iterator

from aot.plan import shapes
from aot.plan.plan import Plan
from aot.precompile import Combo

_UNITS = {"batch_size": "rows", "prefill_length": "tokens", "max_length": "tokens"}


def waste(plan: Plan) -> tuple[str, ...]:
    """A sentence for each gap between two buckets, by dimension, and by props where combos differ in them."""
    kinds: dict[str, list[Combo]] = {}
    for combo in plan.combos:
        props = f" (required_props {combo.required_props!r})" if combo.required_props else ""
        kinds.setdefault(props, []).append(combo)
    gaps = (text for props, alike in kinds.items() for text in _remarks(alike, props))
    return (*gaps, *shapes.shape_remarks(plan))


def _remarks(combos: list[Combo], props: str) -> Iterator[str]:
    for name, unit in _UNITS.items():
        if name == "max_length" and _follows(combos):
            continue
        buckets = sorted({size for combo in combos if (size := getattr(combo, name)) is not None})
        for lower, upper in itertools.pairwise(buckets):
            last = (upper - 1) // 2  # the greatest size with upper more than twice as much
            if last > lower:
                yield (
                    f"{name}{props}: requests of {_range(lower + 1, last)} {unit} are padded to {upper}, more than 2x; "
                    f"add {_list(_between(lower, upper))} to precompile.{name}"
                )


def _follows(combos: list[Combo]) -> bool:
    """Whether max_length is prefill_length and a constant, so that its gaps are those of prefill_length."""
    given = [(combo.max_length, combo.prefill_length) for combo in combos]
    return len({capacity - prefill for capacity, prefill in given if capacity and prefill}) <= 1


def _between(lower: int, upper: int) -> Iterator[int]:
    """Sizes that close the gap, each twice the one before."""
    while upper > 2 * (lower + 1):
        lower *= 2
        yield lower


def _range(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


def _list(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))
