"""The rows of a request in the order in which groups take them, and which numbers of either kind are worth a try."""

import math
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass

Left = tuple[int, int]
"""The number of rows left with images and without, the last ones of each order."""


@dataclass(frozen=True)
class Rows:
    """The rows of a request with images and without, the longest first: each its place, its tokens and its room.

    Room is the number of combos that are long enough: where it is equal, rows may change places.
    """

    seeing: list[tuple[int, int, int]]
    blind: list[tuple[int, int, int]]

    @classmethod
    def of(cls, tokens: Sequence[int], images: Set[int], room: Callable[[int], int]) -> "Rows":
        rooms = {length: room(length) for length in set(tokens)}
        order = sorted(range(len(tokens)), key=lambda row: -tokens[row])
        listed = [(row, tokens[row], rooms[tokens[row]]) for row in order]
        return cls([row for row in listed if row[0] in images], [row for row in listed if row[0] not in images])

    def first(self, left: Left) -> tuple[int, bool]:
        """The tokens of the row that needs most, and whether it has images; of two that need as much, one that has."""
        seeing, blind = self._room(self.seeing, left[0]), self._room(self.blind, left[1])
        rows, count = (self.seeing, left[0]) if seeing <= blind else (self.blind, left[1])
        return rows[-count][1], seeing <= blind

    def mixtures(self, size: int, left: Left) -> Iterator[Left]:
        """How many rows of each kind a group of so many takes whose combo holds all that are left.

        Two rules leave out what others are as good as. No row without images is taken while one with them that needs as
        much is left behind: they could change places. And a group that begins without images takes none while a row is
        left that needs as much as its first: if one of a group with images, the two could change places, and if of one
        without, that group may as well come first.
        """
        images, full = self.first(left)[1], min(size, sum(left))
        for seeing in range(max(int(images), full - left[1]), min(full, left[0]) + 1):
            after = left[0] - seeing, left[1] - full + seeing
            behind = self._room(self.seeing, after[0])
            if full > seeing and behind <= self.blind[-after[1] - 1][2]:
                continue
            if seeing and not images and self._room(self.blind, after[1]) == self._room(self.blind, left[1]):
                continue
            yield seeing, full - seeing

    @staticmethod
    def _room(rows: list[tuple[int, int, int]], left: int) -> float:
        """That of the first row left."""
        return rows[-left][2] if left else math.inf
