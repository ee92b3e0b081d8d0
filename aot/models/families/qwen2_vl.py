"""Qwen2-VL: what its encoder of images computes, read from the files of a checkpoint; the names of its parameters."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aot.faults import Faults
from aot.models.families import preprocessing
from aot.models.families.config import DecoderConfig
from aot.models.families.family import ModelConfig
from aot.models.families.fields import Fields
from aot.models.families.names import ParameterShape
from aot.vision import Images

_FAMILY = "qwen2_vl"
_PROCESSORS = tuple(f"Qwen2VLImageProcessor{kind}" for kind in ("", "Fast", "Pil"))
_MOST_LAYERS = 4_000  # as of a decoder
_ROPE = ("rope_scaling", "rope_parameters")  # as older releases and newer ones call it, and in this order
_TOKENS = {"image": 151655, "vision_start": 151652, "vision_end": 151653}
_SECTIONS = [16, 24, 24]  # what absent fields mean to transformers, here and in _TEXT
_TEXT = {"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "max_window_layers": 80}

_GROUPS = {
    "attention/norm": "norm1.weight",
    "attention/norm_bias": "norm1.bias",
    "attention/qkv_proj": "attn.qkv.weight",
    "attention/qkv_bias": "attn.qkv.bias",
    "attention/o_proj": "attn.proj.weight",
    "attention/o_bias": "attn.proj.bias",
    "mlp/norm": "norm2.weight",
    "mlp/norm_bias": "norm2.bias",
    "mlp/up_proj": "mlp.fc1.weight",
    "mlp/up_bias": "mlp.fc1.bias",
    "mlp/down_proj": "mlp.fc2.weight",
    "mlp/down_bias": "mlp.fc2.bias",
}
_OUTSIDE = {
    "vision/patch_proj": "patch_embed.proj.weight",
    "projector/norm": "merger.ln_q.weight",
    "projector/norm_bias": "merger.ln_q.bias",
    "projector/up_proj": "merger.mlp.0.weight",
    "projector/up_bias": "merger.mlp.0.bias",
    "projector/down_proj": "merger.mlp.2.weight",
    "projector/down_bias": "merger.mlp.2.bias",
}


@dataclass(frozen=True)
class Qwen2VLConfig:
    """All that decides the computation of the vision transformer and of the merger that ends it."""

    depth: int
    width: int
    mlp_width: int
    num_heads: int
    channels: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    """Patches along each side of the square that becomes one embedding."""
    hidden_size: int
    """Width of the text model."""
    rope_theta: float
    images: Images = field(hash=False)  # its steps are mappings

    @property
    def family(self) -> str:
        return _FAMILY

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads

    @property
    def kernel(self) -> ParameterShape:
        return (self.width, self.channels, self.temporal_patch_size, self.patch_size, self.patch_size)

    def parameters(self) -> dict[str, ParameterShape]:
        """The shape of each parameter by its path: the patches', the layers' in order, the merger's."""
        width, merged = self.width, self.width * self.merge_size**2
        groups = {
            "attention": _normed(width, qkv=(3 * width, width), o=(width, width)),
            "mlp": _normed(width, up=(self.mlp_width, width), down=(width, self.mlp_width)),
        }
        layer = {f"{group}/{name}": shape for group, shapes in groups.items() for name, shape in shapes.items()}
        layers = {f"vision/layers/{i}/{name}": shape for i in range(self.depth) for name, shape in layer.items()}
        merger = _normed(width, up=(merged, merged), down=(self.hidden_size, merged))
        return {
            "vision/patch_proj": (width, math.prod(self.kernel[1:])),
            **layers,
            **{f"projector/{n}": s for n, s in merger.items()},
        }

    def huggingface(self, path: str) -> str:
        """The name of a parameter in a checkpoint as published: `visual.blocks.3.attn.qkv.weight` and the like."""
        if path in _OUTSIDE:
            return f"visual.{_OUTSIDE[path]}"
        _, _, layer, name = path.split("/", 3)
        return f"visual.blocks.{layer}.{_GROUPS[name]}"

    def ignored(self, name: str) -> bool:
        """Whether a tensor of a checkpoint takes no part in the computation."""
        return False


def _normed(width: int, **projections: tuple[int, int]) -> dict[str, ParameterShape]:
    """A norm and the projections behind it, (out, in) each, all with biases."""
    shapes: dict[str, ParameterShape] = {"norm": (width,), "norm_bias": (width,)}
    for name, shape in projections.items():
        shapes |= {f"{name}_proj": shape, f"{name}_bias": shape[:1]}
    return shapes


def read_qwen2_vl(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, place: str) -> ModelConfig:
    """The model of a configuration as published or as transformers 5 writes it, and of its image processor's.

    Raises InputError with a line for each fault.
    """
    faults = Faults()
    fields = Fields(config, place, faults=faults)
    decoder = _decoder(fields, place, faults)
    seen = fields.mapping("vision_config", {})
    sizes, processor = _sizes(seen), preprocessing.preprocessor_fields(preprocessor, place, _PROCESSORS, faults)
    vocab = 1 << 31 if decoder is None else decoder.vocab_size
    ids = {name: fields.index(f"{name}_token_id", default, vocab) for name, default in _TOKENS.items()}
    recipe = preprocessing.processor_steps(processor, [_resize(processor)])
    fields.done()
    assert decoder is not None
    _check(fields, seen, processor, decoder, sizes)
    fields.done()
    unit = sizes["patch_size"] * sizes["merge_size"]
    around = (ids["vision_start"],), (ids["vision_end"],)
    images = Images(ids["image"], *around, unit, 0, preprocessing.CHANNELS, "grid", recipe)
    return ModelConfig(decoder, Qwen2VLConfig(images=images, **sizes))


def _decoder(fields: Fields, place: str, faults: Faults) -> DecoderConfig | None:
    """The text model, whose fields lie in a mapping of their own or among the others; None where it has faults."""
    seen, nested = fields, fields.config.get("text_config") is not None
    if nested:
        fields.refuse("quantization_config", (None,))
        seen = fields.mapping("text_config", {})
        if not isinstance(fields.config["text_config"], Mapping):
            return None
    text = seen.config
    tied = fields.config.get("tie_word_embeddings") or text.get("tie_word_embeddings") or False
    rope, sections = _rope(text)
    unnamed = {name: value for name, value in text.items() if name not in ("architectures", "model_type", *_ROPE)}
    of_text = {**_TEXT, **unnamed, **rope, "tie_word_embeddings": tied, "family": "qwen2"}
    with faults.collecting():
        decoder = DecoderConfig.from_huggingface(of_text, f"{place}: text_config" if nested else place)
        _check_rotary(seen, decoder, sections)
        return replace(decoder, mrope=tuple(sections))
    return None


def _rope(text: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """The rotary fields as of a decoder of text, where M-RoPE is no type of its own; and its sections."""
    name = next((name for name in _ROPE if text.get(name)), _ROPE[-1])
    found = text.get(name) or {}
    if not isinstance(found, Mapping):
        return {name: found}, _SECTIONS
    kind = found.get("rope_type", found.get("type", "default"))
    rest = {name: value for name, value in found.items() if name not in ("type", "mrope_section")}
    return {name: rest | {"rope_type": "default" if kind == "mrope" else kind}}, found.get("mrope_section", _SECTIONS)


def _check_rotary(text: Fields, decoder: DecoderConfig, sections: Any) -> None:
    name = next((name for name in _ROPE if text.config.get(name)), _ROPE[-1])
    rope, pairs = text.mapping(name, {}), decoder.head_dim // 2
    rope.refuse("mrope_interleaved", (False, None))
    whole = isinstance(sections, (list, tuple)) and all(type(size) is int and size > 0 for size in sections)
    if not whole or len(sections) != len(_SECTIONS) or sum(sections) != pairs:
        allowed = f"{len(_SECTIONS)} positive integers that add up to half the head dimension, {pairs}"
        rope.fault("mrope_section", f"must be {allowed}, got {sections!r}")
    if decoder.head_dim * decoder.num_heads != decoder.hidden_size:
        heads, size = decoder.num_heads, decoder.hidden_size
        text.fault("hidden_size", f"must be num_attention_heads, {heads}, heads of {decoder.head_dim}, got {size}")


def _sizes(seen: Fields) -> dict[str, Any]:
    """The fields of a Qwen2VLConfig that the vision configuration gives."""
    seen.refuse("hidden_act", ("quick_gelu",))
    width = seen.size("embed_dim", 1280)
    return {
        "depth": seen.size("depth", 32, most=_MOST_LAYERS),
        "width": width,
        "mlp_width": int(width * seen.number("mlp_ratio", 4)),
        "num_heads": seen.size("num_heads", 16),
        "channels": _same(seen, "in_channels", "in_chans", preprocessing.CHANNELS),
        "patch_size": _same(seen, "patch_size", "spatial_patch_size", 14),
        "temporal_patch_size": seen.size("temporal_patch_size", 2),
        "merge_size": seen.size("spatial_merge_size", 2),
        "hidden_size": seen.size("hidden_size", 3584),
        "rope_theta": _theta(seen),
    }


def _same(seen: Fields, name: str, older: str, default: int) -> int:
    """A size that published configurations give under an older name too, or under that alone."""
    size = seen.size(name, seen.config.get(older, default))
    if seen.config.get(older, size) != size:
        seen.fault(older, f"must be {name}, {size}, got {seen.config[older]!r}")
    return size


def _theta(seen: Fields) -> float:
    rope = seen.mapping("rope_parameters", {})
    rope.refuse("rope_type", ("axial", "default"))
    return rope.number("rope_theta", 10000.0, least=1)


def _resize(processor: Fields) -> dict[str, Any]:
    return {"step": "resize", "resample": preprocessing.resampling_filter(processor), "fit": "stretch"}


def _check(fields: Fields, seen: Fields, processor: Fields, decoder: DecoderConfig, sizes: Mapping[str, Any]) -> None:
    """Faults of fields that disagree, or are sound and not implemented."""
    if sizes["hidden_size"] != decoder.hidden_size:
        seen.fault("hidden_size", f"must be that of the text, {decoder.hidden_size}, got {sizes['hidden_size']}")
    if sizes["width"] % (4 * sizes["num_heads"]):
        multiple = 4 * sizes["num_heads"]
        seen.fault("embed_dim", f"must be a multiple of 4 x num_heads, {multiple}, got {sizes['width']}")
    if sizes["channels"] != preprocessing.CHANNELS:
        seen.fault("in_channels", f"{sizes['channels']!r} is not implemented, only {preprocessing.CHANNELS} is")
    for name in ("patch_size", "temporal_patch_size", "merge_size"):
        if processor.config.get(name, sizes[name]) != sizes[name]:
            found = processor.config[name]
            processor.fault(name, f"must be that of vision_config in the configuration, {sizes[name]}, got {found!r}")
