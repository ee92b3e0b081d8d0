"""The rows of a request in the order in which groups take them, and which numbers of either kind are worth a try."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from aot.precompile import Combo

Left = tuple[int, int]
"""The number of rows left with images and without, the last ones of each order."""


class RowsWay(NamedTuple):
    """The rows of each kind that a group of a combo takes, of those that are left before."""

    combo: Combo
    seeing: int
    blind: int
    before: Left

    @property
    def left(self) -> Left:
        """What is left after it."""
        return self.before[0] - self.seeing, self.before[1] - self.blind


class Row(NamedTuple):
    """A row of a request."""

    place: int
    tokens: int
    images: bool
    room: int
    """How many combos are long enough: where it is equal, rows may change places."""
    widest: int
    """Rows of the widest combo that holds it."""


@dataclass(frozen=True)
class Rows:
    """The rows with images and those without, the longest first."""

    seeing: Sequence[Row]
    blind: Sequence[Row]

    @property
    def whole(self) -> Left:
        """All are left."""
        return len(self.seeing), len(self.blind)

    def first(self, left: Left) -> Row:
        """The row that needs most; of two that need as much, one with images."""
        seeing, blind = _room(self.seeing, left[0]), _room(self.blind, left[1])
        return self.seeing[-left[0]] if seeing <= blind else self.blind[-left[1]]

    def least(self, left: Left) -> int:
        """No fewer groups hold what is left: of a group a row takes at least the share that it has of its widest."""
        return -(-sum(shares[count] for shares, count in zip(self._shares, left, strict=True)) // self._unit)

    @cached_property
    def _unit(self) -> int:
        """The share of a whole group."""
        return math.lcm(*(row.widest for row in (*self.seeing, *self.blind)))

    @cached_property
    def _shares(self) -> tuple[list[int], list[int]]:
        """The shares of the last rows of each order, by their number."""
        seeing, blind = (
            list(itertools.accumulate((self._unit // row.widest for row in reversed(rows)), initial=0))
            for rows in (self.seeing, self.blind)
        )
        return seeing, blind

    def mixtures(self, size: int, left: Left) -> Iterator[Left]:
        """How many rows of each kind a group of so many takes whose combo holds all that are left.

        Two rules leave out what others are as good as. No row without images is taken while one with them that needs as
        much is left behind: they could change places. And a group that begins without images takes none while a row is
        left that needs as much as its first: if one of a group with images, the two could change places, and if of one
        without, that group may as well come first.
        """
        images, full = self.first(left).images, min(size, sum(left))
        for seeing in range(max(int(images), full - left[1]), min(full, left[0]) + 1):
            after = left[0] - seeing, left[1] - full + seeing
            if full > seeing and _room(self.seeing, after[0]) <= self.blind[-after[1] - 1].room:
                continue
            if seeing and not images and _room(self.blind, after[1]) == _room(self.blind, left[1]):
                continue
            yield seeing, full - seeing


def _room(rows: Sequence[Row], left: int) -> float:
    """The room of the first row left."""
    return rows[-left].room if left else math.inf
