"""A record beside the same one made anew."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from oracles.records import Case

TOLERANCES = {
    "logits": (1e-5, 1e-5),
    "embeddings": (1e-5, 1e-5),
    "logprobs": (1e-5, 1e-5),
    "frequencies": (0, 1e-6),
    "narrow": (0, 0.5),  # the rounding of bfloat16 and float16 depends on the processor
}
"""By the first of the names that lead to it, how far a float may be off: absolutely, and as a share of it."""

VERSIONS = ("by", "transformers_version")


@dataclass(frozen=True)
class Difference:
    """Where a record and what is made today are not the same, and how."""

    place: str
    text: str


def differences(recorded: Case, made: Case) -> list[Difference]:
    """All that is not as recorded, but for versions."""
    old, new = ({**case.made, **case.arrays} for case in (recorded, made))
    return list(_compared("", old, new))


def largest(recorded: Case, made: Case) -> float:
    """How far logits and embeddings are off, at most."""
    pairs = [(array, made.arrays.get(name)) for name, array in recorded.arrays.items() if array.dtype == np.float32]
    return max((float(np.abs(a - b).max(initial=0)) for a, b in pairs if np.shape(a) == np.shape(b)), default=0.0)


def _compared(place: str, old: Any, new: Any) -> Iterator[Difference]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old.keys() | new.keys()):
            if name not in VERSIONS:
                yield from _compared(f"{place}/{name}".lstrip("/"), old.get(name), new.get(name))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and not _numbers(old):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _compared(f"{place}/{i}", a, b)
    elif text := _told(place, old, new):
        yield Difference(place, text)


def _numbers(items: list[Any]) -> bool:
    return all(isinstance(item, int | float) for item in items)


def _told(place: str, old: Any, new: Any) -> str | None:
    """What is wrong with a value, or None."""
    if not all(isinstance(each, float | list | np.ndarray) for each in (old, new)):
        return None if old is new or _shown(old) == _shown(new) else f"{_shown(new)} instead of {_shown(old)}"
    old, new = np.asarray(old), np.asarray(new)
    if _shown(old) != _shown(new):
        return f"{_shown(new)} instead of {_shown(old)}"
    if old.dtype.kind == "f":
        return _off(old, new, *TOLERANCES.get(place.partition("/")[0], (0, 0)))
    count = np.count_nonzero(old != new)
    return f"{count} of {old.size} values are others" if count else None


def _shown(value: Any) -> str:
    """An array as its dtype and shape, anything else as it is written."""
    return f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)


def _off(old: Any, new: Any, absolute: float, relative: float) -> str | None:
    allowed = absolute + relative * np.abs(old)
    if not old.size or (np.abs(new - old) <= allowed).all():
        return None
    worst = np.unravel_index((np.abs(new - old) - allowed).argmax(), old.shape)
    a, b = old[worst], new[worst]
    return f"{b:.7g} instead of {a:.7g}, off by {abs(b - a):.2g}, allowed {allowed[worst]:.2g}"
