"""The attachment that says what quantization costs a model, written and read strictly."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from aot import digest, strict_json
from aot.bundle.store import Bundle
from aot.errors import BundleError

# Versions of the document:
# 1: the first.
VERSION = 1

LARGE = 0.05
"""Nats from which a loss is remarked on: what int8 costs a model that it suits is a tenth of that."""

_FIELDS = {"quantization": str, "dtype": str, "tokens": int, "nats": float, "alike": float}


@dataclass(frozen=True)
class Loss:
    """How far the quantized model is from itself in `dtype`, over its golden inputs, as the building CPU computes."""

    quantization: str
    dtype: str
    tokens: int
    nats: float
    """The mean Kullback-Leibler divergence of a next token's distributions."""
    alike: float
    """The share of places whose likeliest token is the same."""

    def write(self) -> bytes:
        return digest.canonical_json({"version": VERSION, **asdict(self)})

    @property
    def change(self) -> float:
        """The change of the perplexity of what the model itself would say: 0.01 is one per cent more."""
        return math.expm1(self.nats)


def read_loss(bundle: Bundle) -> Loss | None:
    """What a bundle says of its loss; None where it says nothing. Raises BundleError."""
    data = bundle.attachment("loss")
    if data is None:
        return None
    try:
        return _parsed(strict_json.expect(strict_json.parse_strictly(data), "it", {"version": int, **_FIELDS}))
    except ValueError as error:
        raise BundleError(f"bundle {bundle.path}: loss: {error}; fetch it again or rebuild") from error


def _parsed(fields: dict[str, Any]) -> Loss:
    if (version := fields.pop("version")) != VERSION:
        raise ValueError(f"version must be {VERSION}, got {version}")
    loss = Loss(**fields)
    if loss.tokens < 1 or loss.nats < 0 or not math.isfinite(loss.nats) or not 0 <= loss.alike <= 1:
        raise ValueError("tokens must be at least 1, nats at least 0, and alike from 0 to 1")
    return loss
