"""Weights as a bundle stores them: matrices in int8 with a scale for each output channel, where that is declared."""

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aot.chain import Array
from aot.errors import InputError
from aot.models.checkpoints import arrays
from aot.models.families import names

LARGEST_INT8 = 127  # and not 128: the range is symmetric, so that a sign never changes the size of an error

_ROWS = 1 << 22  # elements quantized at once: beside the result, all the memory that it takes
_SAMPLE = 256  # elements of a row, at the least, whose median stands for the row's
_SMALLEST = np.float32(2.0**-12)
"""The least factor by which a column is evened: what it leaves of a float16 is still a normal number."""

WeightTensor = np.ndarray[Any, Any]


def stored_tensors(
    tensors: Iterable[tuple[str, WeightTensor]], weights: Mapping[str, Array], head_dim: int
) -> Iterator[tuple[str, WeightTensor]]:
    """Each tensor in the dtype that `weights` declares for its path, a quantized matrix followed by its scales.

    Matrices to be quantized are evened first, for which a layer's attention or MLP is read as a whole. Raises
    InputError for a value that the dtype cannot hold.
    """
    quantized = {_place(path) for path, array in weights.items() if array.dtype == "int8"}
    for place, unit in itertools.groupby(tensors, lambda named: _place(named[0])):
        if place in quantized:
            yield from _quantized(place, dict(unit), weights, head_dim)
        else:
            yield from ((path, _cast(path, tensor, weights)) for path, tensor in unit)


def quantize_rows(
    matrix: WeightTensor, place: str, divisors: WeightTensor | None = None
) -> tuple[np.ndarray[Any, np.dtype[np.int8]], np.ndarray[Any, np.dtype[np.float32]]]:
    """A float32 matrix in int8, and the scale of each row: a row times its scale is the original, within half a scale.

    The original's columns are divided first, by `divisors` where there are any. A scale is the row's largest magnitude
    / 127, or 1 for a row of zeros. Raises InputError unless all is finite.
    """
    made, scales = np.empty(matrix.shape, np.int8), np.empty(matrix.shape[0], np.float32)
    for part in _pieces(matrix):
        piece: WeightTensor = matrix[part].astype(np.float32, copy=False)
        piece = piece if divisors is None else piece / divisors
        largest = np.abs(piece).max(axis=1, initial=0)
        if not np.isfinite(largest).all():
            raise InputError(f"{place}: holds values that are not finite, which int8 cannot; leave out quantization")
        scale = np.where(largest > 0, largest / np.float32(LARGEST_INT8), np.float32(1)).astype(np.float32)
        made[part] = np.rint(piece / scale[:, None])
        scales[part] = scale
    return made, scales


@dataclass(frozen=True)
class _Evening:
    """What evens the columns of a unit's matrices without a change of what the unit computes, by path.

    A row of a quantized matrix has one scale, so a column that is many times as large as the others leaves these
    nothing but noise, and a small one is lost itself. What takes a channel is divided by its factor, what gives it is
    multiplied (arXiv:2211.10438, with the weights' magnitudes alone). No factor is above 1: no activation grows.
    """

    divisors: Mapping[str, WeightTensor]
    """What a matrix's columns are divided by, by path."""
    multipliers: Mapping[str, WeightTensor]
    """What a matrix's rows or a bias are multiplied by, by path."""
    norms: Mapping[str, WeightTensor]
    """Norms as they are to be stored."""


def _quantized(
    place: str, unit: Mapping[str, WeightTensor], weights: Mapping[str, Array], head_dim: int
) -> Iterator[tuple[str, WeightTensor]]:
    """The tensors of a unit: a layer's attention or MLP, the embedding, the head."""
    evening = _evening(place, unit, weights, head_dim)
    for path, tensor in unit.items():
        factor = evening.multipliers.get(path, np.float32(1))
        if weights[path].dtype == "int8":
            matrix, scale = quantize_rows(tensor, f"weight {path!r}", evening.divisors.get(path))
            yield path, matrix
            yield names.scale_path(path), scale * factor  # no row loses anything by it
        else:
            yield path, _cast(path, evening.norms.get(path, tensor * factor), weights)


def _evening(place: str, unit: Mapping[str, WeightTensor], weights: Mapping[str, Array], head_dim: int) -> _Evening:
    divisors: dict[str, WeightTensor] = {}
    multipliers: dict[str, WeightTensor] = {}
    norms: dict[str, WeightTensor] = {}
    for giver, known in names.TAKERS.items():
        norm, matrix = f"{place}/{giver}", f"{place}/{giver}_proj"
        takers = [path for name in known if (path := f"{place}/{name}") in unit]
        if not takers or not unit.keys() & {norm, matrix}:
            continue
        factors = _factors(functools.reduce(np.maximum, (_largest(unit[path]) for path in takers)))
        if norm in unit:
            norms[norm], columns = _moved(factors, unit[norm], _dtype(norm, weights))
        else:
            factors, columns = _of_heads(factors, len(unit[matrix]), head_dim)
            multipliers |= {matrix: factors, f"{place}/{giver}_bias": factors}
        divisors |= dict.fromkeys(takers, columns)
    return _Evening(divisors, multipliers, norms)


def _factors(largest: WeightTensor) -> WeightTensor:
    """The factors of channels with these magnitudes: 1 of the largest."""
    top = largest.max(initial=0)
    if not np.isfinite(top) or top == 0:
        return np.ones_like(largest)
    return np.maximum(largest / top, _SMALLEST)


def _of_heads(factors: WeightTensor, given: int, head_dim: int) -> tuple[WeightTensor, WeightTensor]:
    """Factors of the rows that give channels, and of the channels: heads of queries share those of values."""
    shared = len(factors) // given
    dim = head_dim if shared > 1 else 1
    of_rows = factors.reshape(-1, shared, dim).max(axis=1)
    return of_rows.reshape(-1), np.repeat(of_rows[:, None], shared, axis=1).reshape(-1)


def _moved(factors: WeightTensor, norm: WeightTensor, dtype: np.dtype[Any]) -> tuple[WeightTensor, WeightTensor]:
    """A norm times its factors, and those that its dtype leaves of them: what is rounded here is made up for there."""
    made = (norm * factors).astype(dtype).astype(np.float32)
    kept = (made != 0) & np.isfinite(made)
    left = np.divide(made, norm, out=np.where(norm == 0, factors, np.float32(1)), where=kept)
    return np.where(kept, made, norm), left


def _largest(matrix: WeightTensor) -> WeightTensor:
    """The largest magnitude of each column, once rows are alike: each has a scale of its own, so none counts for more.

    They are so by their medians, on which a few large columns have no bearing.
    """
    found = np.zeros(matrix.shape[1], np.float32)
    for part in _pieces(matrix):
        piece = np.abs(matrix[part])
        with np.errstate(invalid="ignore"):  # what is not finite is refused where it is rounded
            middle = np.median(piece[:, :: max(1, len(found) // _SAMPLE)], axis=1, keepdims=True)
            middle = np.maximum(middle, piece.max(axis=1, keepdims=True) * _SMALLEST)  # of a row that is nearly empty
            piece /= np.where(middle > 0, middle, np.float32(1))
        found = np.maximum(found, piece.max(axis=0))
    return found


def _pieces(matrix: WeightTensor) -> Iterator[slice]:
    """Rows of a matrix that are taken at once."""
    step = max(1, _ROWS // max(1, matrix.shape[1]))
    return (slice(start, start + step) for start in range(0, matrix.shape[0], step))


def _cast(path: str, tensor: WeightTensor, weights: Mapping[str, Array]) -> WeightTensor:
    return arrays.cast_tensor(tensor, _dtype(path, weights), f"weight {path!r}")


def _dtype(path: str, weights: Mapping[str, Array]) -> np.dtype[Any]:
    return arrays.weight_dtype(weights[path].dtype)


def _place(path: str) -> str:
    """The unit that a weight belongs to."""
    return path.rpartition("/")[0]
