"""Weights as a bundle stores them: matrices in int8 with a scale for each output channel, where that is declared."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from aot.chain import Array
from aot.errors import InputError
from aot.models import arrays, names

LARGEST = 127  # and not 128: the range is symmetric, so that a sign never changes the size of an error

_ROWS = 1 << 22  # elements quantized at once: beside the result, all the memory that it takes


def stored(
    tensors: Iterable[tuple[str, np.ndarray[Any, Any]]], weights: Mapping[str, Array]
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Each tensor in the dtype that `weights` declares for its path, a quantized matrix followed by its scales.

    Raises InputError for a value that the dtype cannot hold.
    """
    for path, tensor in tensors:
        if weights[path].dtype != "int8":
            yield path, arrays.cast(tensor, arrays.resolve(weights[path].dtype), f"weight {path!r}")
            continue
        matrix, scale = rows(tensor, f"weight {path!r}")
        yield path, matrix
        yield names.scale(path), scale


def rows(
    matrix: np.ndarray[Any, Any], place: str
) -> tuple[np.ndarray[Any, np.dtype[np.int8]], np.ndarray[Any, np.dtype[np.float32]]]:
    """A float32 matrix in int8, and the scale of each row: a row times its scale is the original, within half a scale.

    A scale is the row's largest magnitude / 127, or 1 for a row of zeros. Raises InputError unless all is finite.
    """
    made, scales = np.empty(matrix.shape, np.int8), np.empty(matrix.shape[0], np.float32)
    step = max(1, _ROWS // max(1, matrix.shape[1]))
    for start in range(0, matrix.shape[0], step):
        piece = matrix[start : start + step].astype(np.float32, copy=False)
        largest = np.abs(piece).max(axis=1, initial=0)
        if not np.isfinite(largest).all():
            raise InputError(f"{place}: holds values that are not finite, which int8 cannot; leave out quantization")
        scale = np.where(largest > 0, largest / np.float32(LARGEST), np.float32(1)).astype(np.float32)
        made[start : start + step] = np.rint(piece / scale[:, None])
        scales[start : start + step] = scale
    return made, scales
