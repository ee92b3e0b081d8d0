"""SamplingParams: how a token is drawn from logits. Plain data; the arithmetic is in `aot.programs.sampling`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from aot.errors import InputError

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
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise InputError(f"sampling.{field.name}: must be a finite number, got {value!r}")
        if self.top_k == _EVERY:
            object.__setattr__(self, "top_k", 0)
        limits = {
            "temperature": (self.temperature >= 0, "at least 0"),
            "top_k": (isinstance(self.top_k, int) and self.top_k >= 0, "an integer of at least 0, or -1 for all"),
            "top_p": (0 <= self.top_p <= 1, "between 0 and 1"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
        }
        for name, (holds, allowed) in limits.items():
            if not holds:
                raise InputError(f"sampling.{name}: must be {allowed}, got {getattr(self, name)!r}")


FIELDS = tuple(field.name for field in fields(SamplingParams))


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


def recorded(params: SamplingParams, restrictions: Restrictions) -> dict[str, Any]:
    """Both as a bundle records them: restrictions only where there are any."""
    return {**vars(params), **{name: value for name, value in vars(restrictions).items() if value}}


def params_of(record: Mapping[str, Any]) -> SamplingParams:
    """The options in what `recorded` gave."""
    return SamplingParams(**{name: value for name, value in record.items() if name not in RESTRICTIONS})


def restrictions_of(record: Mapping[str, Any]) -> Restrictions:
    """The restrictions in what `recorded` gave."""
    return Restrictions(**{name: tuple(record[name]) for name in RESTRICTIONS if name in record})
