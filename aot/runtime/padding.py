"""Left padding of token lists, `aot.pad`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aot.errors import InputError

_INT32 = np.iinfo(np.int32)


def pad(
    sequences: Sequence[Sequence[int]], pad_token: int = 0, pad_to: int | None = None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The token lists as one int32 array `[rows, length]` and its mask, 1 at tokens and 0 at pads, pads first.

    The length is that of the longest list or `pad_to`, whichever is more.
    """
    rows = [[_token(token, f"sequences[{row}]") for token in tokens] for row, tokens in enumerate(_lists(sequences))]
    length = max(*map(len, rows), _length(pad_to), 0)
    padded = np.full((len(rows), length), _token(pad_token, "pad_token"), np.int32)
    mask = np.zeros_like(padded)
    for row, tokens in enumerate(rows):
        padded[row, length - len(tokens) :] = tokens
        mask[row, length - len(tokens) :] = 1
    return padded, mask


def _lists(sequences: Any) -> list[list[Any]]:
    try:
        rows = [list(tokens) for tokens in sequences]
    except TypeError:
        raise InputError(f"sequences: must be a list of token lists, got {sequences!r}") from None
    if not rows:
        raise InputError("sequences: must hold at least one token list, got none; give one per row")
    return rows


def _token(value: Any, place: str) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise InputError(f"{place}: tokens must be integers, got {value!r}; encode text first")
    if not _INT32.min <= value <= _INT32.max:
        raise InputError(f"{place}: tokens must fit in int32, got {value!r}")
    return int(value)


def _length(pad_to: Any) -> int:
    if pad_to is None:
        return 0
    if isinstance(pad_to, bool) or not isinstance(pad_to, (int, np.integer)) or pad_to < 0:
        raise InputError(f"pad_to: must be an integer of at least 0, got {pad_to!r}")
    return int(pad_to)
