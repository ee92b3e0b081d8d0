"""Left padding of token lists, `aot.pad`, and the way back to the form that programs take."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aot.errors import InputError
from aot.runtime import values
from aot.runtime.values import HostArray

_INT32 = np.iinfo(np.int32)
_ROWS, _TOKENS = "batch_size", "prefill_length"


class Padded(np.ndarray[Any, np.dtype[np.int32]]):
    """Token ids with pads before them, as `pad` gives them; what is computed from one is an array like any other."""

    has_pads_first = False


def pad(
    sequences: Sequence[Sequence[int]], pad_token: int = 0, pad_to: int | None = None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The token lists as one int32 array `[rows, length]` and its mask, 1 at tokens and 0 at pads, pads first.

    The length is that of the longest list or `pad_to`, whichever is more. `Model.call` takes the array with its mask.
    """
    rows = [[_token(token, f"sequences[{row}]") for token in tokens] for row, tokens in enumerate(_lists(sequences))]
    length = max(*map(len, rows), _length(pad_to), 0)
    padded = np.full((len(rows), length), _token(pad_token, "pad_token"), np.int32).view(Padded)
    padded.has_pads_first = True
    mask = np.zeros(padded.shape, np.int32)
    for row, tokens in enumerate(rows):
        padded[row, length - len(tokens) :] = tokens
        mask[row, length - len(tokens) :] = 1
    return padded, mask


def pads_behind(inputs: Mapping[str, Any], phase: str, axes: Mapping[str, Sequence[str | None]]) -> Mapping[str, Any]:
    """Inputs of a phase as it takes them, tokens first and pads behind, where they have pads elsewhere.

    Where, `mask` says [rows, tokens], 1 at tokens; without one they stand first in what `pad` made. Of other inputs
    with an axis of tokens the same places are taken, and lengths follow from the mask. Raises InputError for a mask
    that does not fit.
    """
    if "mask" in axes or not {"tokens", "lengths"} <= axes.keys() or "tokens" not in inputs:
        return inputs
    given = {name: values.as_array(value, phase, name) for name, value in inputs.items()}
    if "mask" in given:
        first, given["lengths"] = _places(given, f"phase {phase}: input mask")
        del given["mask"]
    elif getattr(inputs["tokens"], "has_pads_first", False) and _is_by_row(given.get("lengths")):
        first = given["tokens"].shape[1] - given["lengths"].astype(np.int64)
    else:
        return inputs
    return {name: _moved(array, axes.get(name, ()), first) for name, array in given.items()}


def _is_by_row(lengths: HostArray | None) -> bool:
    return lengths is not None and lengths.ndim == 1 and lengths.dtype.kind in "iu"


def _places(given: Mapping[str, HostArray], place: str) -> tuple[HostArray, HostArray]:
    """The place at which the tokens of each row begin, and their number."""
    mask, wanted = given["mask"], given["tokens"].shape
    if mask.shape != wanted or mask.ndim != 2 or not mask.size or mask.dtype.kind not in "biuf":
        raise InputError(
            f"{place}: is {mask.dtype} {list(mask.shape)} beside tokens {list(wanted)}; give that of `pad`"
        )
    first, counts = mask.argmax(axis=1), np.count_nonzero(mask, axis=1)
    at = np.arange(mask.shape[1])
    if not np.array_equal(mask, (at >= first[:, None]) & (at < (first + counts)[:, None])):
        raise InputError(f"{place}: must be 1 at the tokens of a row, which stand side by side, and 0 at pads")
    if not np.array_equal(given.get("lengths", counts), counts):
        raise InputError(f"{place}: has {counts.tolist()} tokens, lengths say otherwise; leave one of them out")
    return first, counts


def _moved(array: HostArray, axes: Sequence[str | None], first: HostArray) -> HostArray:
    """An array with what is at `first` [rows] of its axis of tokens at the beginning of that; pads hold anything."""
    if _TOKENS not in axes or array.ndim != len(axes) or array.shape[axes.index(_ROWS)] != len(first):
        return array
    axis, shape = axes.index(_TOKENS), [1] * array.ndim
    width = array.shape[axis]
    shape[axes.index(_ROWS)], shape[axis] = len(first), width
    at = np.clip(first[:, None] + np.arange(width), 0, width - 1)
    return np.take_along_axis(array, at.reshape(shape), axis)


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
