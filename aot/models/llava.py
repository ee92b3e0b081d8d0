"""LLaVA (arXiv:2310.03744): a CLIP tower, a projector of two layers, and a Llama or Qwen2 decoder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from aot.errors import InputError
from aot.models import preprocessing
from aot.models.config import DecoderConfig
from aot.models.family import ModelConfig
from aot.models.fields import Fields
from aot.models.names import Shape
from aot.vision import Images

if TYPE_CHECKING:
    from aot.models.clip import Clip

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")

_MOST_LAYERS = 10_000  # as in a decoder: keeps a misprint from filling the memory

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

_OUTSIDE = {
    "vision/patch_proj": "vision_tower.embeddings.patch_embedding.weight",
    "vision/class_token": "vision_tower.embeddings.class_embedding",
    "vision/positions": "vision_tower.embeddings.position_embedding.weight",
    "vision/norm": "vision_tower.pre_layrnorm.weight",
    "vision/norm_bias": "vision_tower.pre_layrnorm.bias",
}
_MODULES = {
    "attention/norm": "layer_norm1",
    "attention/q": "self_attn.q_proj",
    "attention/k": "self_attn.k_proj",
    "attention/v": "self_attn.v_proj",
    "attention/o": "self_attn.out_proj",
    "mlp/norm": "layer_norm2",
    "mlp/up": "mlp.fc1",
    "mlp/down": "mlp.fc2",
    "projector/first": "multi_modal_projector.linear_1",
    "projector/second": "multi_modal_projector.linear_2",
}
_LAYER = re.compile(r"vision_tower\.encoder\.layers\.(\d+)\.")
_UNUSED = ("vision_tower.post_layernorm.", "vision_tower.embeddings.position_ids")


@dataclass(frozen=True)
class TowerConfig:
    """All that decides the computation of tower and projector."""

    depth: int
    """Layers that are run: those up to the one whose features are taken."""
    width: int
    heads: int
    inner: int
    """Of the MLP of a layer."""
    patch: int
    channels: int
    grid: int
    """Patches along a side of the images that the position table was trained for."""
    activation: str
    epsilon: float
    whole: bool
    """Whether the class token's features are kept."""
    hidden: int
    """Of the text model."""
    projector_activation: str
    projector_bias: bool

    def parameters(self) -> dict[str, Shape]:
        """The shape of each parameter by its path; matrices are (out, in), the kernel of the patches among them."""
        width = self.width
        patch = {"patch_proj": (width, self.channels * self.patch**2), "class_token": (width,)}
        patch |= {"positions": (self.grid**2 + 1, width), "norm": (width,), "norm_bias": (width,)}
        block = {f"layers/{n}/{path}": shape for n in range(self.depth) for path, shape in self._block().items()}
        tower = {f"vision/{path}": shape for path, shape in (patch | block).items()}
        return tower | {f"projector/{path}": shape for path, shape in self._projector().items()}

    def _block(self) -> dict[str, Shape]:
        width, inner = self.width, self.inner
        norm: dict[str, Shape] = {"norm": (width,), "norm_bias": (width,)}
        attention = norm | {f"{name}_proj": (width, width) for name in "qkvo"}
        attention |= {f"{name}_bias": (width,) for name in "qkvo"}
        mlp = norm | {
            "up_proj": (inner, width),
            "up_bias": (inner,),
            "down_proj": (width, inner),
            "down_bias": (width,),
        }
        groups = {"attention": attention, "mlp": mlp}
        return {f"{group}/{path}": shape for group, shapes in groups.items() for path, shape in shapes.items()}

    def _projector(self) -> dict[str, Shape]:
        hidden = self.hidden
        shapes: dict[str, Shape] = {"first_proj": (hidden, self.width), "second_proj": (hidden, hidden)}
        return shapes | ({"first_bias": (hidden,), "second_bias": (hidden,)} if self.projector_bias else {})


@dataclass(frozen=True)
class LlavaConfig:
    """The encoder of a LLaVA model."""

    tower: TowerConfig
    layers: int
    """Layers that the checkpoint has, those that are not run among them."""
    images: Images
    family: ClassVar[str] = "llava"

    def parameters(self) -> dict[str, Shape]:
        return self.tower.parameters()

    def huggingface(self, path: str) -> str:
        """The name of a parameter in a checkpoint: `vision_tower.encoder.layers.3.mlp.fc1.bias` and the like."""
        if path in _OUTSIDE:
            return _OUTSIDE[path]
        *above, group, name = path.split("/")
        module = _MODULES[f"{group}/{name.removesuffix('_proj').removesuffix('_bias')}"]
        place = f"vision_tower.encoder.layers.{above[-1]}." if above else ""
        return f"{place}{module}.{'bias' if name.endswith('_bias') else 'weight'}"

    def ignored(self, name: str) -> bool:
        """Whether a tensor is of the tower and comes after the layer whose features are taken."""
        layer = _LAYER.match(name)
        return name.startswith(_UNUSED) or bool(layer and self.tower.depth <= int(layer[1]) < self.layers)

    def part(self, dtype: str, platform: str) -> "Clip":
        from aot.models.clip import Clip

        return Clip(self.tower, dtype, platform)


def read(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, place: str) -> ModelConfig:
    """The model that transformers builds from the same fields, in the form of its release 5 or an older one.

    Raises InputError with a line for each fault.
    """
    faults: list[str] = []
    fields = Fields(config, place, faults=faults)
    fields.refuse("quantization_config", (None,))
    decoder, seen = _decoder(fields, place, faults), fields.mapping("vision_config", _LARGE)
    layers = seen.size("num_hidden_layers", 12, _MOST_LAYERS)
    tower = _tower(fields, seen, layers, 1 if decoder is None else decoder.hidden_size)
    name = "image_token_index" if "image_token_index" in config else "image_token_id"
    token = fields.index(name, 32000, 1 << 31 if decoder is None else decoder.vocab_size)
    recipe = _recipe(preprocessor, str(PurePath(place).with_name("preprocessor_config.json")), faults)
    fields.done()
    assert decoder is not None
    images = Images(token, (), (), tower.patch, int(tower.whole), tower.channels, "sequence", recipe)
    return ModelConfig(decoder, LlavaConfig(tower, layers, images))


def _decoder(fields: Fields, place: str, faults: list[str]) -> DecoderConfig | None:
    """The text model; None where it has faults."""
    text = fields.mapping("text_config", {})
    kind = text.choice("model_type", "llama", tuple(_TEXT))
    # A head is tied where either says so.
    tied = {"tie_word_embeddings": True} if fields.flag("tie_word_embeddings", False) else {}
    filled = {**_TEXT[kind], **text.config, **tied, "model_type": kind}
    try:
        return DecoderConfig.from_huggingface(filled, f"{place}: text_config")
    except InputError as error:
        faults.append(str(error))
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


def _recipe(preprocessor: Mapping[str, Any] | None, place: str, faults: list[str]) -> tuple[Mapping[str, Any], ...]:
    fields = Fields(preprocessor or {}, place, faults=faults)
    if preprocessor is None:
        faults.append(
            f"{place}: missing; it says how pictures become pixels, fetch it from where the checkpoint is from"
        )
    fields.choice("image_processor_type", _PROCESSORS[0], _PROCESSORS)
    for name in ("do_convert_rgb", "do_resize"):
        fields.refuse(name, (True, None))
    fields.refuse("do_pad", (False, None))
    return preprocessing.recipe(fields, _resize(fields))


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
    resize = {"step": "resize", "resample": preprocessing.resample(fields), "fit": fit}
    return [resize] if stretched else [resize, {"step": "crop"}]


def _sides(fields: Fields, name: str, size: Any) -> tuple[int, int]:
    """Height and width, of which a number, or `shortest_edge`, is each."""
    given = size if isinstance(size, Mapping) else {"shortest_edge": size}
    inner = fields.within(name, given)
    if "shortest_edge" not in given:
        return inner.size("height"), inner.size("width")
    inner.refuse("longest_edge", (None,))
    return (inner.size("shortest_edge"),) * 2
