"""Rotary positions of a row of tokens with images: M-RoPE (arXiv:2409.12191), for still images."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Grid = tuple[int, int]


def rotary_positions(
    ids: Sequence[int], images: Sequence[Grid], token: int
) -> tuple[np.ndarray[Any, np.dtype[np.int32]], int]:
    """The time, row and column of each token, int32 [3, length], and how far the next token's are from `length`.

    `images` are the rows and columns of each image in order, whose tokens stand one after the other, row by row. They
    share the time of the first of them; text goes on after the largest position of all.
    """
    made: list[np.ndarray[Any, np.dtype[np.int32]]] = []
    position = 0
    for length, grid in _stretches(ids, images, token):
        turned = np.arange(length, dtype=np.int32) if grid is None else _inside(grid)
        made.append(np.broadcast_to(turned + np.int32(position), (3, length)))
        position += length if grid is None else max(grid)
    joined = np.concatenate(made, axis=1) if made else np.zeros((3, 0), np.int32)
    return joined, position - len(ids)


def _stretches(ids: Sequence[int], images: Sequence[Grid], token: int) -> Iterator[tuple[int, Grid | None]]:
    """The length of each stretch of text and of each image, with the grid of the latter."""
    place = 0
    for rows, columns in images:
        first = list(ids).index(token, place)
        place, text = first + rows * columns, first - place
        assert list(ids[first:place]) == [token] * (rows * columns), (first, rows, columns)
        if text:
            yield text, None
        yield rows * columns, (rows, columns)
    assert token not in ids[place:], place
    if place < len(ids):
        yield len(ids) - place, None


def _inside(grid: Grid) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Time, row and column of each square of an image, [3, squares]."""
    rows, columns = np.indices(grid, np.int32).reshape(2, -1)
    return np.stack([np.zeros_like(rows), rows, columns])
