"""LlavaConfig: what a LLaVA encoder computes, a CLIP tower and a projector; the names of its parameters."""

import re
from dataclasses import dataclass, field
from typing import ClassVar

from aot.models.families.names import ParameterShape
from aot.vision import Images

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")

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
    """Width of the MLP of a layer."""
    patch: int
    channels: int
    grid: int
    """Patches along a side of the images that the position table was trained for."""
    activation: str
    epsilon: float
    whole: bool
    """Whether the class token's features are kept."""
    hidden: int
    """Width of the text model."""
    projector_activation: str
    projector_bias: bool

    def parameters(self) -> dict[str, ParameterShape]:
        """The shape of each parameter by its path; matrices are (out, in), the kernel of the patches among them."""
        width = self.width
        patch = {"patch_proj": (width, self.channels * self.patch**2), "class_token": (width,)}
        patch |= {"positions": (self.grid**2 + 1, width), "norm": (width,), "norm_bias": (width,)}
        block = {f"layers/{n}/{path}": shape for n in range(self.depth) for path, shape in self._block().items()}
        tower = {f"vision/{path}": shape for path, shape in (patch | block).items()}
        return tower | {f"projector/{path}": shape for path, shape in self._projector().items()}

    def _block(self) -> dict[str, ParameterShape]:
        width, inner = self.width, self.inner
        norm: dict[str, ParameterShape] = {"norm": (width,), "norm_bias": (width,)}
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

    def _projector(self) -> dict[str, ParameterShape]:
        hidden = self.hidden
        shapes: dict[str, ParameterShape] = {"first_proj": (hidden, self.width), "second_proj": (hidden, hidden)}
        return shapes | ({"first_bias": (hidden,), "second_bias": (hidden,)} if self.projector_bias else {})


@dataclass(frozen=True)
class LlavaConfig:
    """The encoder of a LLaVA model."""

    tower: TowerConfig
    layers: int
    """Layers that the checkpoint has, those that are not run among them."""
    images: Images = field(hash=False)  # its steps are mappings
    family: ClassVar[str] = "llava"

    @property
    def kernel(self) -> ParameterShape:
        tower = self.tower
        return (tower.width, tower.channels, tower.patch, tower.patch)

    def parameters(self) -> dict[str, ParameterShape]:
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
