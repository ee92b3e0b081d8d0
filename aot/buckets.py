"""The bucket choice that planner and loader share: which combo serves a request, and how rows are grouped."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from aot import digest
from aot.errors import NoEntryError
from aot.precompile import FIELDS, Combo
from aot.rows import Left, Row, Rows, RowsWay


@dataclass(frozen=True)
class Need:
    """What a combo must hold: rows, prompt tokens, prompt and generated tokens together; props must be equal."""

    rows: int
    tokens: int | None = None
    total: int | None = None
    props: Mapping[str, Any] | None = None
    images: bool = False
    """Whether there are embeddings of images among the tokens. A combo with vision holds rows without any, too."""


@dataclass(frozen=True)
class RowGroup:
    """Rows, by their place in the request, that one call of a combo serves."""

    combo: Combo
    rows: tuple[int, ...]


_REMEMBERED = 1 << 14  # needs whose combos a table keeps in mind

# What a need calls it, the dimension that must hold it, and the words for n of it.
SIDES = (("rows", "batch_size", "rows"), ("tokens", "prefill_length", "tokens"), ("total", "max_length", "tokens"))


class Table:
    """The combos of a bundle, ranked once, so that choosing costs microseconds however many there are."""

    def __init__(self, combos: Sequence[Combo]) -> None:
        assert combos, "a bundle has a combo"
        self.combos = sorted(combos, key=_rank)
        self._ranked: dict[bytes, list[Combo]] = {}
        for combo in self.combos:
            self._ranked.setdefault(_spelling(combo.required_props), []).append(combo)
        self._widths = lru_cache(_REMEMBERED)(self._widening)
        self._rooms = lru_cache(_REMEMBERED)(self._room)

    def choose(self, need: Need) -> Combo | None:
        """The combo that holds the need with the least padded work, the product of its dimensions, or None."""
        widening = self._widths(need.tokens, need.total, _spelling(need.props), need.images)
        return next((combo for combo in widening if combo.batch_size >= need.rows), None)

    def longest(self, budget: int, props: Mapping[str, Any] | None = None) -> int:
        """The most prompt tokens that some combo holds beside `budget` new ones; 0 where none holds any."""
        sides = (
            [size for size in (c.prefill_length, c.max_length and c.max_length - budget) if size is not None]
            for c in self.alike(props)
        )
        return max((max(0, min(side)) for side in sides if side), default=0)

    def nearest(self, need: Need) -> Combo:
        """The combo that misses the need by least: equal props, then the fewest sides too small, then the ratio."""

        def miss(combo: Combo) -> tuple[Any, ...]:
            short = _short(need, combo)
            return len(short), math.prod(needed / size for _, _, needed, size in short), _rank(combo)

        return min(self.alike(need.props, need.images) or self.combos, key=miss)

    def refusal(self, need: Need) -> NoEntryError:
        """The error for a need that no combo holds: what fails, the nearest combo and what to add."""
        alike = self.alike(need.props, need.images)
        close = self.nearest(need)
        if not alike and need.images:
            return NoEntryError("request: no entry takes images; add vision_included: true to precompile and rebuild")
        if not alike:
            props = None if need.props is None else dict(need.props)
            return NoEntryError(
                f"request: no entry has the props {props!r}; the nearest has {close.required_props!r}; "
                "add them to precompile.required_props and rebuild"
            )
        for words, field, needed, _ in _short(need, close):
            sizes = [getattr(combo, field) for combo in alike]  # None holds any number
            if None not in sizes and max(sizes) < needed:
                return NoEntryError(_too_much(need, words, field, needed, max(sizes), close))
        fields = ", ".join(f"{field} {size} of {needed}" for _, field, needed, size in _short(need, close))
        return NoEntryError(
            f"request: no entry holds {_spelled(need)} together; the nearest, {_named(close)}, has {fields}; "
            "add such a combo to precompile and rebuild"
        )

    def partition(
        self,
        tokens: Sequence[int],
        budget: int,
        props: Mapping[str, Any] | None = None,
        images: Set[int] = frozenset(),
    ) -> tuple[RowGroup, ...]:
        """The fewest groups of rows that combos hold, with the least padded work among those; rows of `tokens` prompt
        tokens and `budget` new ones each, in some of which there are `images`.

        Exact: a row needs at least what a shorter one of its kind needs, so the groups of any partition, sorted by
        their longest row, can take the rows of each kind in sorted order instead; and a group takes as many rows as it
        holds, for fewer left are never worse. Which numbers of either kind it takes, and how many groups are needed for
        what is left, `Rows` bounds further. Raises NoEntryError for a row that fits no combo alone.
        """
        order = sorted(range(len(tokens)), key=lambda row: -tokens[row])
        listed = [self._row(row, Need(1, tokens[row], tokens[row] + budget, props, row in images)) for row in order]
        rows = Rows([row for row in listed if row.images], [row for row in listed if not row.images])
        for more in itertools.count():  # hardly ever above 1
            best = self._best(rows, rows.least(rows.whole) + (1 << more) - 1, budget, _spelling(props))
            if rows.whole in best:
                break
        return tuple(sorted(_groups(rows, best), key=lambda group: group.rows))

    def _row(self, place: int, need: Need) -> Row:
        assert need.tokens is not None
        spelling = _spelling(need.props)
        held = self._widths(need.tokens, need.total, spelling, need.images)
        if not held:
            raise self.refusal(need)
        return Row(place, need.tokens, need.images, self._rooms(need.tokens, need.total, spelling), held[-1].batch_size)

    def _best(self, rows: Rows, most: int, budget: int, spelling: bytes) -> "_Best":
        """The best way to serve what can be left of some rows, in at most so many groups for all of them."""
        reached: list[dict[Left, int]] = [{} for _ in range(sum(rows.whole) + 1)]  # by rows left: the groups before
        reached[-1][rows.whole] = 0
        ways: dict[Left, list[RowsWay]] = {}
        for there in reversed(reached[1:]):
            for left, before in there.items():
                found = self._ways(rows, left, budget, spelling)
                ways[left] = [way for way in found if before + 1 + rows.least(way.left) <= most]
                for way in ways[left]:
                    further = reached[sum(way.left)]
                    further[way.left] = min(before + 1, further.get(way.left, most))
        best: _Best = {(0, 0): _Option(0, 0, None)}
        for left in reversed(ways):
            if options := [_option(best, way) for way in ways[left] if way.left in best]:
                best[left] = min(options, key=lambda option: option[:2])
        return best

    def _ways(self, rows: Rows, left: Left, budget: int, spelling: bytes) -> Iterator[RowsWay]:
        """The combos for a group with the first row that is left, and how many rows of each kind they can take."""
        first = rows.first(left)
        need = first.tokens, first.tokens + budget, spelling
        held = self._widths(*need, first.images)
        if left[0] and not first.images:  # a combo with vision may be no wider, and take rows that the others cannot
            held = (*held, *self._widths(*need, True))
        for combo in dict.fromkeys(held):
            if not combo.vision_included:
                yield RowsWay(combo, 0, min(combo.batch_size, left[1]), left)
                continue
            for seeing, blind in rows.mixtures(combo.batch_size, left):
                yield RowsWay(combo, seeing, blind, left)

    def _room(self, tokens: int, total: int | None, spelling: bytes) -> int:
        return sum(_holds(combo, tokens, total) for combo in self._ranked.get(spelling, ()))

    def _widening(self, tokens: int | None, total: int | None, spelling: bytes, images: bool) -> tuple[Combo, ...]:
        """The combos that hold a row, without those that have more work than another and are no wider."""
        widest, found = 0, []
        for combo in self._ranked.get(spelling, ()):
            if combo.batch_size > widest and _holds(combo, tokens, total) and combo.vision_included >= images:
                widest = combo.batch_size
                found.append(combo)
        return tuple(found)

    def alike(self, props: Mapping[str, Any] | None, images: bool = False) -> list[Combo]:
        """The combos of these props by padded work, where asked those with vision alone."""
        return [combo for combo in self._ranked.get(_spelling(props), []) if combo.vision_included >= images]


class _Option(NamedTuple):
    """How to serve some rows: groups and work in all, and the first of the groups."""

    groups: int
    work: int
    way: RowsWay | None


_Best = dict[Left, _Option]


def _option(best: _Best, way: RowsWay) -> _Option:
    rest = best[way.left]
    return _Option(rest.groups + 1, rest.work + _work(way.combo), way)


def _groups(rows: Rows, best: _Best) -> Iterator[RowGroup]:
    left = rows.whole
    while (way := best[left].way) is not None:
        begin = len(rows.seeing) - left[0], len(rows.blind) - left[1]
        taken = (*rows.seeing[begin[0] :][: way.seeing], *rows.blind[begin[1] :][: way.blind])
        yield RowGroup(way.combo, tuple(sorted(row.place for row in taken)))
        left = way.left


def _holds(combo: Combo, tokens: int | None, total: int | None) -> bool:
    prefill, capacity = combo.prefill_length, combo.max_length
    return (tokens is None or prefill is None or prefill >= tokens) and (
        total is None or capacity is None or capacity >= total
    )


def _short(need: Need, combo: Combo) -> list[tuple[str, str, int, int]]:
    """The sides on which a combo is too small: words, dimension, needed, size."""
    sides = ((words, field, getattr(need, side), getattr(combo, field)) for side, field, words in SIDES)
    return [side for side in sides if side[2] is not None and side[3] is not None and side[3] < side[2]]


def _spelling(props: Mapping[str, Any] | None) -> bytes:
    """Equal for equal props; an empty mapping is none."""
    return digest.canonical_json(props) if props else b""


def _work(combo: Combo) -> int:
    return combo.batch_size * (combo.prefill_length or 1) * (combo.max_length or 1)


def _rank(combo: Combo) -> tuple[Any, ...]:
    """What combos are sorted by: padded work, then the dimensions in their order, an absent one before any size."""
    sizes = ((value is not None, value or 0) for name in FIELDS[:-1] for value in [getattr(combo, name)])
    return _work(combo), *sizes


def _named(combo: Combo) -> str:
    return ", ".join(f"{field} {size}" for _, field, _ in SIDES if (size := getattr(combo, field)) is not None)


def _spelled(need: Need) -> str:
    parts = [f"{need.rows} {'row' if need.rows == 1 else 'rows'}"]
    parts += [] if need.tokens is None else [f"{need.tokens} prompt tokens"]
    parts += [] if need.total is None else [f"{need.total} tokens with the generated ones"]
    return " of ".join(parts[:2]) + "".join(f" and {part}" for part in parts[2:])


def _too_much(need: Need, words: str, field: str, needed: int, largest: int, close: Combo) -> str:
    what = {"batch_size": "batch_size", "prefill_length": "prefill bucket", "max_length": "max_length"}[field]
    sum_of = ""
    if field == "max_length" and need.tokens is not None:
        sum_of = f" ({need.tokens} of the prompt, {needed - need.tokens} to generate)"
    return (
        f"request: {needed} {words}{sum_of} exceed the largest {what}, {largest}; "
        f"add one to precompile.{field} and rebuild (the nearest entry has {_named(close)})"
    )
