"""Rotary position embeddings: their frequencies, and how a configuration spells them."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from aot.models.families.fields import Fields

_THETA = 10000.0  # where no field says otherwise, in all four of transformers' configuration classes
_PARTIAL = "partial_rotary_factor"


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than those trained on."""

    kind: str
    """"llama3" or "linear"; only the factor belongs to the latter."""
    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: int | None = None


def rope_frequencies(theta: float, head_dim: int, scaling: RopeScaling | None) -> tuple[float, ...]:
    """The head_dim / 2 frequencies `theta ** (-2 i / head_dim)`, scaled, each a float32 value.

    The formulas of `_compute_linear_scaling_rope_parameters` and `_compute_llama3_parameters` in transformers'
    modeling_rope_utils.py, but in double precision by `math`: the vectorised float32 powers of numpy and torch differ
    between CPUs, and these values enter programs.
    """
    plain = (theta ** (-2 * i / head_dim) for i in range(head_dim // 2))
    return tuple(_float32(_scaled(frequency, scaling)) for frequency in plain)


def read_rope(fields: Fields) -> tuple[float, RopeScaling | None]:
    """Theta and the scaling, from `rope_parameters` or the older `rope_theta` and `rope_scaling`."""
    name = "rope_scaling" if fields.config.get("rope_scaling") else "rope_parameters"
    found = fields.config.get(name) or {}
    if not isinstance(found, Mapping) or any(isinstance(value, Mapping) for value in found.values()):
        fields.fault(name, f"must be one flat mapping for all layers, got {found!r}")
        found = {}
    inner = fields.within(name, found)
    for place in (fields, inner):
        if place.config.get(_PARTIAL) not in (None, 1.0):
            place.fault(_PARTIAL, f"{place.config[_PARTIAL]!r} is not implemented, only 1.0 is")
    place = inner if "rope_theta" in found else fields
    return place.number("rope_theta", _THETA, least=1), _scaling(fields, inner)


def _scaling(fields: Fields, rope: Fields) -> RopeScaling | None:
    kind = rope.config.get("rope_type", rope.config.get("type", "default"))
    if kind == "linear":
        return RopeScaling(kind, rope.number("factor"))
    if kind == "llama3":
        return _llama3(fields, rope)
    if kind != "default":
        rope.fault("rope_type", f"{kind!r} is not implemented, only 'default', 'linear' and 'llama3' are")
    return None


def _llama3(fields: Fields, rope: Fields) -> RopeScaling:
    # Looked up as transformers does: beside the rope parameters, in them, else all the positions.
    name = "original_max_position_embeddings"
    place = next((place for place in (fields, rope) if name in place.config), None)
    positions = place.size(name) if place else fields.size("max_position_embeddings")
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if {"low_freq_factor", "high_freq_factor"} <= set(rope.config) and high <= low:
        rope.fault("high_freq_factor", f"must be above low_freq_factor, {low!r}, got {high!r}")
    return RopeScaling("llama3", rope.number("factor"), low, high, positions)


def _scaled(frequency: float, scaling: RopeScaling | None) -> float:
    if scaling is None:
        return frequency
    if scaling.low_freq_factor is None or scaling.high_freq_factor is None:
        return frequency / scaling.factor
    assert scaling.original_max_position_embeddings is not None, scaling
    turns = scaling.original_max_position_embeddings * frequency / (2 * math.pi)
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = min(max(smooth, 0.0), 1.0)
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def _float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])
