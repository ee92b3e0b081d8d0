"""SamplingParams: how a token is drawn from logits. Plain data; the arithmetic is in `aot.programs.drawing`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from aot.errors import InputError, shown

_EVERY = -1  # as the top_k of some servers' clients


@dataclass(frozen=True)
class SamplingParams:
    """Sampling options of one request. The default is greedy.

    Applied in the order repetition, presence and frequency penalty, temperature, top-k, top-p, min-p.
    Raises InputError for a value out of its range.
    """

    temperature: float = 0.0
    """0 takes the argmax, the lowest id first among equals."""
    top_k: int = 0
    """Keeps exactly this many tokens, the lowest ids first among equals; 0 keeps all; -1 becomes 0."""
    top_p: float = 1.0
    """Keeps the fewest most probable tokens whose mass reaches this, the one that crosses it included; 0 keeps one."""
    min_p: float = 0.0
    """Keeps tokens at least this probable relative to the most probable one."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in the prompt or generated before."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens generated before."""
    frequency_penalty: float = 0.0
    """Subtracted once for each time that a token was generated before."""

    def __post_init__(self) -> None:
        if self.top_k == _EVERY:
            object.__setattr__(self, "top_k", 0)
        for name, value in vars(self).items():
            check_option(name, value)


SAMPLING_FIELDS = tuple(field.name for field in fields(SamplingParams))

_MOST = 3.4028234663852886e38  # of float32
_PENALTY = (-1e6, 1e6, "from -1e6 to 1e6")
_RANGES: Mapping[str, tuple[float, float, str]] = {
    "temperature": (0, _MOST, "at least 0 and at most 3.4e38"),
    "top_k": (0, (1 << 31) - 1, "an integer of at least 0 and below 2**31, or -1 for all"),
    "top_p": (0, 1, "between 0 and 1"),
    "min_p": (0, 1, "between 0 and 1"),
    "repetition_penalty": (1e-6, 1e6, "above 0, from 1e-6 to 1e6"),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
}
"""What float32 can compute with: two infinities would make a number that is none."""


def check_option(name: str, value: Any) -> None:
    """Raises InputError for a value that an option cannot have."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (isinstance(value, float) and not math.isfinite(value)):
        raise InputError(f"sampling.{name}: must be a finite number, got {shown(value)}")
    least, most, allowed = _RANGES[name]
    if not least <= value <= most or (name == "top_k" and not isinstance(value, int)):
        raise InputError(f"sampling.{name}: must be {allowed}, got {shown(value)}")


@dataclass(frozen=True)
class Restrictions:
    """What a checkpoint keeps out of every text. Tokens are left out by the programs; stop strings are a default."""

    stop: tuple[str, ...] = ()
    """A sequence ends before the first of these texts, where its request does not give others."""
    suppress: tuple[int, ...] = ()
    """Tokens that are never drawn."""
    begin_suppress: tuple[int, ...] = ()
    """Tokens that are not drawn first."""


RESTRICTIONS: Mapping[str, type] = {"stop": str, "suppress": int, "begin_suppress": int}
"""The type of the items of each restriction."""


def record_sampling(params: SamplingParams, restrictions: Restrictions) -> dict[str, Any]:
    """Both as a bundle records them: restrictions only where there are any."""
    return {**vars(params), **{name: value for name, value in vars(restrictions).items() if value}}


def params_of(record: Mapping[str, Any]) -> SamplingParams:
    """The options in what `record_sampling` gave."""
    return SamplingParams(**{name: value for name, value in record.items() if name not in RESTRICTIONS})


def restrictions_of(record: Mapping[str, Any]) -> Restrictions:
    """The restrictions in what `record_sampling` gave."""
    return Restrictions(**{name: tuple(record[name]) for name in RESTRICTIONS if name in record})
