"""The document of golden outputs, written and read strictly."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from aot import strict_json
from aot.errors import BundleError
from aot.runtime.device.client import numpy_dtype

# Versions of the document and of the inputs that `aot.golden.exercise` makes:
# 1: the first.
GOLDEN_VERSION = 1

_WHOLE = 256
"""Values up to which an array is kept whole; of a larger one the sample."""
_SAMPLE = 64
_WORDS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_DTYPES = ("bool", *_WORDS, "float16", "bfloat16", "float32", "float64")
_ODD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True)
class Output:
    """An output as recorded: its shape, and the values at some places of the flat array, None where at all."""

    dtype: str
    shape: tuple[int, ...]
    positions: tuple[int, ...] | None
    values: Any
    """Flat; float64, or Python's integers."""


@dataclass(frozen=True)
class Expected:
    """The golden outputs of an entry."""

    tolerance: float
    outputs: dict[str, Output]


def write_output(array: Any, whole: bool) -> dict[str, Any]:
    """An output as JSON has it: all of it, or 64 values at places that follow from its size."""
    made = {"dtype": str(array.dtype), "shape": list(array.shape)}
    flat = array.reshape(-1)
    if not whole and flat.size > _WHOLE:
        made["positions"] = kept_positions(flat.size)
        flat = flat[made["positions"]]
    return {**made, "values": [_plain(value) for value in flat.tolist()]}


def unsound_output(name: str, array: Any, finite: bool = True) -> str:
    """What is said of an output that has NaN anywhere, or infinities where it is to be `finite`; else nothing."""
    if numpy_dtype(str(array.dtype)).kind in "biu":
        return ""
    wrong = (~np.isfinite(array) if finite else np.isnan(array)).reshape(-1)
    if not wrong.any():
        return ""
    at = int(np.argmax(wrong))
    return f"output {name}: {array.reshape(-1)[at]!s} at {at} ({int(wrong.sum())} such)"


def kept_positions(size: int) -> list[int]:
    """The first, the last, and places in between that fall on no common multiple (the golden ratio's multiples)."""
    scattered = {int(math.modf(i * 0.6180339887498949)[0] * size) for i in range(1, _SAMPLE - 1)}
    return sorted(scattered | {0, size - 1})


def read_golden(data: bytes, where: str) -> tuple[dict[tuple[str, str], Expected], list[tuple[str, str, str]]]:
    """What was recorded by (combo key, phase), and (combo key, phase, cause) of what was not. Raises BundleError."""
    try:
        fields = {"version": int, "entries": list, "not_recorded": list}
        document = strict_json.expect(strict_json.parse_strictly(data), "it", fields)
        if document["version"] != GOLDEN_VERSION:
            raise ValueError(f"version must be {GOLDEN_VERSION}, got {document['version']}")
        recorded: dict[tuple[str, str], Expected] = {}
        for i, item in enumerate(document["entries"]):
            place = f"entries[{i}]"
            entry = strict_json.expect(item, place, {"key": str, "phase": str, "tolerance": float, "outputs": dict})
            if recorded.setdefault((entry["key"], entry["phase"]), made := _expected(entry, place)) is not made:
                raise ValueError(f"{place} was recorded before")
        omitted = []
        for i, item in enumerate(document["not_recorded"]):
            entry = strict_json.expect(item, f"not_recorded[{i}]", {"key": str, "phase": str, "cause": str})
            omitted.append((entry["key"], entry["phase"], entry["cause"]))
        return recorded, omitted
    except ValueError as error:
        raise BundleError(f"{where}: {error}; fetch it again or rebuild") from error


def _expected(entry: dict[str, Any], place: str) -> Expected:
    if not 0 <= entry["tolerance"] < 1:
        raise ValueError(f"{place}.tolerance must be at least 0 and below 1, got {entry['tolerance']}")
    outputs = {name: _output(item, f"{place}.outputs[{name!r}]") for name, item in entry["outputs"].items()}
    return Expected(entry["tolerance"], outputs)


def _output(item: Any, place: str) -> Output:
    fields = strict_json.expect(item, place, {"dtype": str, "shape": list, "values": list}, {"positions": list})
    kind, shape, values, places = fields["dtype"], fields["shape"], fields["values"], fields.get("positions")
    if kind not in _DTYPES:
        raise ValueError(f"{place}.dtype must be one of {', '.join(_DTYPES)}, got {kind!r}")
    for number in itertools.chain(shape, places or ()):
        if type(number) is not int or number < 0:
            raise ValueError(f"{place}: shape and positions must be integers of at least 0, got {number!r}")
    size = math.prod(shape)
    if len(values) != (size if places is None else len(places)) or any(p >= size for p in places or ()):
        raise ValueError(f"{place}: its values are not as many as its shape or its positions say")
    return Output(kind, tuple(shape), None if places is None else tuple(places), _array(values, kind, place))


def _array(values: list[Any], kind: str, place: str) -> "np.ndarray[Any, Any]":
    allowed = {"b": (bool,), "i": (int,), "u": (int,)}.get(numpy_dtype(kind).kind, (float, str))
    for value in values:
        if type(value) not in allowed or (type(value) is str and value not in _ODD):
            raise ValueError(f"{place}: has the value {value!r:.40}, which is no {kind}")
    if float in allowed:
        return np.array([_ODD.get(value, value) for value in values], np.float64)
    limits = np.iinfo(kind) if kind in _WORDS else None
    if limits and any(not limits.min <= value <= limits.max for value in values):
        raise ValueError(f"{place}: has a value beyond {kind}")
    return np.array(values, object)


def _plain(value: object) -> object:
    if type(value) is float and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value
