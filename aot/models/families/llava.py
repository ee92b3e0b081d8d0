"""LLaVA (arXiv:2310.03744): reads a CLIP tower, a projector of two layers, and a Llama or Qwen2 decoder."""

from collections.abc import Mapping
from typing import Any

from aot.faults import Faults
from aot.models.families import preprocessing
from aot.models.families.config import DecoderConfig
from aot.models.families.family import ModelConfig
from aot.models.families.fields import Fields
from aot.models.families.llava_config import ACTIVATIONS, LlavaConfig, TowerConfig
from aot.vision import Images

_MOST_LAYERS = 4_000  # as in a decoder: keeps a misprint from filling the memory

# What an absent field of the text means to transformers' class of it: published files leave their sizes out.
_TEXT: dict[str, dict[str, int]] = {
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    "qwen2": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 32768,
    },
}
# The tower where no configuration of it is given at all.
_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 336,
}

_PROCESSORS = tuple(f"{name}ImageProcessor{kind}" for name in ("CLIP", "Llava") for kind in ("", "Fast", "Pil"))
_SIDE = 224  # of images, where transformers' processors say nothing


def read_llava(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, place: str) -> ModelConfig:
    """The model that transformers builds from the same fields, in the form of its release 5 or an older one.

    Raises InputError with a line for each fault.
    """
    faults = Faults()
    fields = Fields(config, place, faults=faults)
    fields.refuse("quantization_config", (None,))
    decoder, seen = _decoder(fields, place, faults), fields.mapping("vision_config", _LARGE)
    layers = seen.size("num_hidden_layers", 12, _MOST_LAYERS)
    tower = _tower(fields, seen, layers, 1 if decoder is None else decoder.hidden_size)
    name = "image_token_index" if "image_token_index" in config else "image_token_id"
    token = fields.index(name, 32000, 1 << 31 if decoder is None else decoder.vocab_size)
    processor = preprocessing.preprocessor_fields(preprocessor, place, _PROCESSORS, faults)
    processor.refuse("do_pad", (False, None))
    recipe = preprocessing.processor_steps(processor, _resize(processor))
    fields.done()
    assert decoder is not None
    images = Images(token, (), (), tower.patch, int(tower.whole), tower.channels, "sequence", recipe)
    return ModelConfig(decoder, LlavaConfig(tower, layers, images))


def _decoder(fields: Fields, place: str, faults: Faults) -> DecoderConfig | None:
    """The text model; None where it has faults."""
    text = fields.mapping("text_config", {})
    kind = text.choice("model_type", "llama", tuple(_TEXT))
    # A head is tied where either says so.
    tied = {"tie_word_embeddings": True} if fields.flag("tie_word_embeddings", False) else {}
    filled = {**_TEXT[kind], **text.config, **tied, "model_type": kind}
    with faults.collecting():
        return DecoderConfig.from_huggingface(filled, f"{place}: text_config")
    return None


def _tower(fields: Fields, seen: Fields, layers: int, hidden: int) -> TowerConfig:
    """The class defaults of what is absent are those of transformers' CLIPVisionConfig."""
    seen.choice("model_type", "clip_vision_model", ("clip_vision_model",))
    seen.refuse("num_channels", (preprocessing.CHANNELS,))
    width, heads = seen.size("hidden_size", 768), seen.size("num_attention_heads", 12)
    if width % heads:
        seen.fault("num_attention_heads", f"must divide hidden_size, {width}, got {heads}")
    patch, side = seen.size("patch_size", 32), seen.size("image_size", 224)
    if patch > side:
        seen.fault("patch_size", f"must not be above image_size, {side}, got {patch}")
    return TowerConfig(
        depth=_depth(fields, layers),
        width=width,
        heads=heads,
        inner=seen.size("intermediate_size", 3072),
        patch=patch,
        channels=preprocessing.CHANNELS,
        grid=side // patch,
        activation=seen.choice("hidden_act", "quick_gelu", ACTIVATIONS),
        epsilon=seen.number("layer_norm_eps", 1e-5),
        whole=fields.choice("vision_feature_select_strategy", "default", ("default", "full")) == "full",
        hidden=hidden,
        projector_activation=fields.choice("projector_hidden_act", "gelu", ACTIVATIONS),
        projector_bias=fields.flag("multimodal_projector_bias", True),
    )


def _depth(fields: Fields, layers: int) -> int:
    """How many layers are run, from an index into the features before the first layer and after each."""
    name = "vision_feature_layer"
    index = fields.config.get(name, -2)
    if isinstance(index, (list, tuple)) and len(index) == 1:
        (index,) = index
    if isinstance(index, (list, tuple)):
        fields.fault(name, f"{index!r} is not implemented, only a single layer is")
    elif isinstance(index, bool) or not isinstance(index, int) or not -layers - 1 <= index <= layers:
        fields.fault(name, f"must be an integer from {-layers - 1} to {layers}, got {index!r}")
    else:
        return index if index >= 0 else layers + 1 + index
    return 1


def _resize(fields: Fields) -> list[Mapping[str, Any]]:
    """A shape of a bundle stands for the size that is resized to and for the one that is left: they must agree."""
    size = fields.config.get("size", {"shortest_edge": _SIDE})
    stretched = isinstance(size, Mapping) and "shortest_edge" not in size
    asked = _sides(fields, "size", size)
    if fields.flag("do_center_crop", True):
        kept = _sides(fields, "crop_size", fields.config.get("crop_size", _SIDE))
        if kept != asked:
            fields.fault("crop_size", f"must be the size that pictures are resized to, {asked!r}, got {kept!r}")
    elif not stretched:
        fields.fault("do_center_crop", "False is not implemented beside shortest_edge, only True is")
    fit = "stretch" if stretched else "cover"
    resize = {"step": "resize", "resample": preprocessing.resampling_filter(fields), "fit": fit}
    return [resize] if stretched else [resize, {"step": "crop"}]


def _sides(fields: Fields, name: str, size: Any) -> tuple[int, int]:
    """Height and width, of which a number, or `shortest_edge`, is each."""
    given = size if isinstance(size, Mapping) else {"shortest_edge": size}
    inner = fields.within(name, given)
    if "shortest_edge" not in given:
        return inner.size("height"), inner.size("width")
    inner.refuse("longest_edge", (None,))
    return (inner.size("shortest_edge"),) * 2
