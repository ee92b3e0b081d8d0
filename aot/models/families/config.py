"""DecoderConfig: what a decoder computes, read from a Hugging Face configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from aot import closest
from aot.errors import InputError
from aot.models.families import rope
from aot.models.families.fields import Fields
from aot.models.families.rope import RopeScaling

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}

SEEING = {
    "LlavaForConditionalGeneration": "llava",
    "Qwen2VLForConditionalGeneration": "qwen2_vl",
}
"""Architectures that take images, each with the module that reads it."""
_SUPPORTED = (*ARCHITECTURES, *SEEING)

# What an absent field means to each of transformers' configuration classes.
_KV_HEADS = {"llama": None, "mistral": 8, "qwen2": 32, "qwen3": 32}
_HEAD_DIM = {"llama": None, "mistral": None, "qwen2": None, "qwen3": 128}
_WINDOW = 4096
_FULL_LAYERS = 28

_MOST_LAYERS = 4_000  # beyond any decoder, and within the calls of a chain; keeps a misprint from filling the memory

FULL, SLIDING = "full_attention", "sliding_attention"

# Fields that change the computation in a way that is not implemented, unless they have one of these values.
_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "quantization_config": (None,),
    "is_causal": (True, None),
    "per_layer_config": (None,),
}


@dataclass(frozen=True)
class DecoderConfig:
    """All that decides a decoder's computation, nothing implicit left."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    max_positions: int
    tie_embeddings: bool
    attention_bias: bool
    """Whether the query, key and value projections have biases."""
    output_bias: bool
    """Whether the projection that ends the attention has a bias."""
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int | None, ...]
    """How many last positions a token sees in each layer, itself included; None for all."""
    mrope: tuple[int, ...] | None = None
    """How many rotary frequencies go by a token's time, row and column each; None where all go by its position."""

    @classmethod
    def from_huggingface(cls, config: Mapping[str, Any], place: str = "config.json") -> Self:
        """The decoder that transformers builds from the same fields, in the form of its release 5 or an older one.

        The sizes must be there; other fields default as in transformers' classes. `family: qwen2` may stand for the
        architecture. Raises InputError with a line for each fault, each beginning with `place`.
        """
        name = family_name(config, place)
        fields = Fields(config, place)
        for field, implemented in _IMPLEMENTED.items():
            fields.refuse(field, implemented)
        theta, scaling = rope.read_rope(fields)
        sizes, switches = _sizes(fields, name), _switches(fields, name)
        decoder = cls(family=name, rope_theta=theta, rope_scaling=scaling, **sizes, **switches)
        fields.done()
        _check_heads(fields, decoder)
        fields.done()
        return decoder

    def inverse_frequencies(self) -> tuple[float, ...]:
        """Rotary frequencies of the head_dim / 2 pairs, in radians a position, each a float32 value."""
        return rope.rope_frequencies(self.rope_theta, self.head_dim, self.rope_scaling)


def family_name(config: Mapping[str, Any], place: str = "config.json") -> str:
    """The family that `architectures`, `model_type` or `family` names; InputError where none or an unknown one does."""
    named = [name for name in (named_architecture(config), config.get("model_type"), config.get("family")) if name]
    if not named:
        raise InputError(f"{place}: architectures: missing; name one of {', '.join(_SUPPORTED)}")
    families = {_known(name, place) for name in named}
    if len(families) > 1:
        raise InputError(f"{place}: architectures and model_type disagree: {named!r}; keep the one that is right")
    return families.pop()


def named_architecture(config: Mapping[str, Any]) -> object:
    """What `architectures` names: the first of a list, or what stands for it."""
    named = config.get("architectures")
    return named[0] if isinstance(named, (list, tuple)) and named else named


def _known(name: Any, place: str) -> str:
    names = {**ARCHITECTURES, **{family: family for family in ARCHITECTURES.values()}}
    if isinstance(name, str) and name in names:
        return names[name]
    meant = closest.closest_architecture(name, (*names, *SEEING))
    hint = f"; did you mean {meant[0]!r}?" if meant else ""
    raise InputError(f"{place}: unknown architecture {name!r}, supported are {', '.join(_SUPPORTED)}{hint}")


def _sizes(fields: Fields, family: str) -> dict[str, Any]:
    heads, hidden = fields.size("num_attention_heads"), fields.size("hidden_size")
    layers = fields.size("num_hidden_layers", most=_MOST_LAYERS)
    return {
        "vocab_size": fields.size("vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": fields.size("intermediate_size"),
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": fields.optional_size("num_key_value_heads", _KV_HEADS[family]) or heads,
        "head_dim": fields.optional_size("head_dim", _HEAD_DIM[family]) or hidden // heads,
        "max_positions": fields.size("max_position_embeddings"),
        "windows": _windows(fields, family, layers),
    }


def _switches(fields: Fields, family: str) -> dict[str, Any]:
    bias = family in ("llama", "qwen3") and fields.flag("attention_bias", False)
    return {
        "rms_norm_eps": fields.number("rms_norm_eps", 1e-6),
        "tie_embeddings": fields.flag("tie_word_embeddings", False),
        "attention_bias": bias or family == "qwen2",
        "output_bias": bias,
        "mlp_bias": family == "llama" and fields.flag("mlp_bias", False),
        "qk_norm": family == "qwen3",
    }


def _windows(fields: Fields, family: str, layers: int) -> tuple[int | None, ...]:
    window = _window(fields, family)
    first = {"llama": layers, "mistral": 0}.get(family, fields.config.get("max_window_layers", _FULL_LAYERS))
    if isinstance(first, bool) or not isinstance(first, int):
        fields.fault("max_window_layers", f"must be an integer, got {first!r}")
        first = layers
    default = [SLIDING if window and layer >= first else FULL for layer in range(layers)]
    kinds = _layer_types(fields, family, default, window)
    return tuple(window if kind == SLIDING else None for kind in kinds)


def _window(fields: Fields, family: str) -> int | None:
    if family == "mistral" or (family != "llama" and fields.flag("use_sliding_window", False)):
        return fields.optional_size("sliding_window", _WINDOW)
    return None  # llama has no use for the field


def _layer_types(fields: Fields, family: str, default: list[str], window: int | None) -> list[str]:
    kinds = fields.config.get("layer_types") or default
    if not isinstance(kinds, (list, tuple)) or any(kind not in (FULL, SLIDING) for kind in kinds):
        fields.fault("layer_types", f"must be a list of {FULL!r} and {SLIDING!r}, got {kinds!r}")
    elif len(kinds) != len(default):
        fields.fault("layer_types", f"must have num_hidden_layers, {len(default)}, items, got {len(kinds)}")
    elif family in ("llama", "mistral") and list(kinds) != default:
        fields.fault("layer_types", f"{kinds!r} is not implemented for {family}; leave it out")
    elif window is None and SLIDING in kinds:
        fields.fault("layer_types", f"has {SLIDING!r} without a window; set use_sliding_window and sliding_window")
    else:
        return list(kinds)
    return default


def _check_heads(fields: Fields, decoder: DecoderConfig) -> None:
    if decoder.num_heads % decoder.num_kv_heads:
        heads = decoder.num_heads
        fields.fault("num_key_value_heads", f"must divide num_attention_heads, {heads}, got {decoder.num_kv_heads}")
    if decoder.head_dim % 2 or not decoder.head_dim:
        fields.fault("head_dim", f"must be even and positive, got {decoder.head_dim}")
