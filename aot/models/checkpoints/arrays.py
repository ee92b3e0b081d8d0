"""Tensors in safetensors files: where each lies, and one at a time in the dtype that is wanted."""

import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from aot.errors import InputError

DTYPES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
KINDS = ", ".join(DTYPES)

_WANTED = ("float32", "bfloat16", "float16")
_PIECE = 1 << 22  # bytes read at once: beside the result, all the memory that reading takes


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: `kind` is its dtype as the format spells it, `start` the offset of its first byte."""

    file: Path
    name: str
    start: int
    kind: str
    shape: tuple[int, ...]


def weight_dtype(dtype: str) -> np.dtype[Any]:
    """The numpy dtype of weights named `dtype`; InputError for one that they cannot have."""
    if dtype not in _WANTED:
        raise InputError(f"dtype: must be one of {', '.join(_WANTED)}, got {dtype!r}")
    return np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)


def read_header(file: Path) -> dict[str, Stored]:
    """The tensors of a file by name. InputError for a file that the safetensors library does not open."""
    try:
        # The library checks the whole header but does not tell offsets, so it is parsed once more here.
        with safetensors.safe_open(file, framework="numpy"):
            pass
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            entries = json.loads(stream.read(length))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file}: is damaged or no safetensors file: {error}; fetch it again") from None
    return {
        name: Stored(file, name, 8 + length + entry["data_offsets"][0], entry["dtype"], tuple(entry["shape"]))
        for name, entry in entries.items()
        if name != "__metadata__"
    }


def prevailing_dtype(stored: Iterable[tuple[str, tuple[int, ...]]]) -> str | None:
    """The dtype for weights that most elements are stored in, by (kind, shape) of each array; float32 for float64."""
    elements: Counter[str] = Counter()
    for kind, shape in stored:
        if kind in DTYPES:
            elements[DTYPES[kind].name] += math.prod(shape)
    name = max(elements, key=lambda name: elements[name], default=None)
    return "float32" if name == "float64" else name


def read_tensor(stored: Stored, dtype: str) -> np.ndarray[Any, Any]:
    """A tensor's array in `dtype`. InputError where a finite value is too large for it."""
    result = np.empty(stored.shape, weight_dtype(dtype))
    flat, start = result.reshape(-1), 0
    for piece in _pieces(stored):
        flat[start : start + piece.size] = cast_tensor(piece, result.dtype, f"{stored.file}: tensor {stored.name!r}")
        start += piece.size
    return result


def cast_tensor(array: np.ndarray[Any, Any], dtype: np.dtype[Any], place: str) -> np.ndarray[Any, Any]:
    """`array` in `dtype`; InputError where that makes a finite value infinite."""
    with np.errstate(over="ignore", invalid="ignore"):  # a NaN stays one
        result = array.astype(dtype, copy=False)
        lost = dtype != array.dtype and not np.array_equal(np.isfinite(result), np.isfinite(array))
    if lost:
        raise InputError(f"{place}: holds values too large for {dtype.name}; choose float32 or bfloat16")
    return result


def are_same_tensors(one: Stored, other: Stored) -> bool:
    """Whether two tensors have the same dtype, shape and bytes."""
    if (one.kind, one.shape) != (other.kind, other.shape):
        return False
    return all(
        np.array_equal(a.view(np.uint8), b.view(np.uint8)) for a, b in zip(_pieces(one), _pieces(other), strict=True)
    )


def _pieces(stored: Stored) -> Iterator[np.ndarray[Any, Any]]:
    """The flat elements in pieces that share one buffer. Read and not mapped: mapped pages would stay resident."""
    dtype = DTYPES[stored.kind]
    left = math.prod(stored.shape) * dtype.itemsize
    buffer = np.empty(min(left, _PIECE), np.uint8)
    try:
        with stored.file.open("rb", buffering=0) as stream:
            stream.seek(stored.start)
            while left:
                piece = buffer[: min(left, _PIECE)]
                _fill(stream, piece.data, stored)
                left -= piece.size
                yield piece.view(dtype)
    except OSError as error:
        raise InputError(f"{stored.file}: tensor {stored.name!r} cannot be read: {error}; fetch it again") from None


def _fill(stream: io.FileIO, target: memoryview, stored: Stored) -> None:
    while target:
        count = stream.readinto(target)
        if not count:
            raise InputError(f"{stored.file}: ends inside tensor {stored.name!r}; fetch it again")
        target = target[count:]
