"""SamplingParams: how a token is drawn from logits. Plain data; the arithmetic is in `aot.programs.sampling`."""

import math
from dataclasses import dataclass, fields

from aot.errors import InputError


@dataclass(frozen=True)
class SamplingParams:
    """Sampling options of one request. The default is greedy.

    Applied in the order repetition, presence and frequency penalty, temperature, top-k, top-p, min-p.
    Raises InputError for a value out of its range.
    """

    temperature: float = 0.0
    """0 takes the argmax, the lowest id first among equals."""
    top_k: int = 0
    """Keeps exactly this many tokens, the lowest ids first among equals; 0 keeps all."""
    top_p: float = 1.0
    """Keeps the fewest most probable tokens whose mass reaches this, the one that crosses it included."""
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
        limits = {
            "temperature": (self.temperature >= 0, "at least 0"),
            "top_k": (isinstance(self.top_k, int) and self.top_k >= 0, "an integer of at least 0"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
        }
        for name, (holds, allowed) in limits.items():
            if not holds:
                raise InputError(f"sampling.{name}: must be {allowed}, got {getattr(self, name)!r}")


FIELDS = tuple(field.name for field in fields(SamplingParams))
