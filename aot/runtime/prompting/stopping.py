"""Stop strings, looked for in a text that comes piece by piece: linear in the text and in the strings."""

from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from aot.errors import InputError, shown

MOST_STRINGS, MOST_CHARACTERS = 256, 1 << 16
"""Bounds of the stop strings of one request together."""

MatchedLengths = tuple[int, ...]
"""The most of each string's first characters that a text ends with."""


class Stops:
    """The strings before the first of which a text ends. Raises InputError for what are none, or too many."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = _checked(strings)
        self.start: MatchedLengths = (0,) * len(self._strings)
        """What the empty text matches."""

    def read(self, matched: MatchedLengths, piece: str) -> tuple[MatchedLengths, int | None]:
        """What a text matches with a further piece, and where the first string of those now in it begins.

        That is counted from the beginning of the piece, so it may be negative; None where there is none.
        """
        made = [_advanced(string, length, piece) for string, length in zip(self._strings, matched, strict=True)]
        found = [begin for _, begin in made if begin is not None]
        return tuple(length for length, _ in made), min(found, default=None)


def _checked(strings: Any) -> tuple[str, ...]:
    if isinstance(strings, str) or not all(isinstance(string, str) and string for string in strings):
        raise InputError(f"stop: must be a list of strings that are not empty, got {shown(strings)}")
    characters = sum(map(len, strings))
    if len(strings) > MOST_STRINGS or characters > MOST_CHARACTERS:
        raise InputError(
            f"stop: {len(strings)} strings of {characters} characters are above the limit of {MOST_STRINGS} strings "
            f"and {MOST_CHARACTERS} characters; give fewer or shorter ones"
        )
    return tuple(strings)


def _advanced(string: str, length: int, piece: str) -> tuple[int, int | None]:
    """How much of a string a text ends with after a piece, and where in that the string begins, if it is all there.

    The algorithm of Knuth, Morris and Pratt (1977).
    """
    borders = _borders(string)
    for place, character in enumerate(piece):
        while length and character != string[length]:
            length = borders[length - 1]
        length += character == string[length]
        if length == len(string):
            return 0, place + 1 - length
    return length, None


@lru_cache(1 << 6)
def _borders(string: str) -> "array[int]":
    """The longest shorter beginning that each beginning of a string ends with."""
    borders, length = array("i", [0]), 0
    for character in string[1:]:
        while length and character != string[length]:
            length = borders[length - 1]
        length += character == string[length]
        borders.append(length)
    return borders
