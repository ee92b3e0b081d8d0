"""ModelConfig: what a model computes, read from the files of a checkpoint; where its tensors lie, whatever it is."""

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from aot import vision
from aot.chain import Array
from aot.models.families import names
from aot.models.families.config import SEEING, DecoderConfig, named_architecture
from aot.models.families.names import ParameterShape


class EncoderConfig(Protocol):
    """What decides the computation of an encoder of images. Compares by value, and needs no jax."""

    @property
    def family(self) -> str: ...
    @property
    def images(self) -> vision.Images: ...
    def parameters(self) -> dict[str, ParameterShape]:
        """The shape of each parameter by its path, all below `vision/` and `projector/`; matrices are (out, in)."""

    @property
    def kernel(self) -> ParameterShape:
        """The shape in which a checkpoint has `vision/patch_proj`: a convolution's, with all its axes."""

    def huggingface(self, path: str) -> str:
        """The name of a parameter in a checkpoint, as it is published."""

    def ignored(self, name: str) -> bool:
        """Whether a tensor of a checkpoint takes no part in the computation."""


@dataclass(frozen=True)
class ModelConfig:
    """What decides a model's computation: a decoder, and for a model that sees the encoder of its images."""

    decoder: DecoderConfig
    encoder: EncoderConfig | None = None

    @property
    def family(self) -> str:
        return self.decoder.family if self.encoder is None else self.encoder.family

    def parameters(self) -> dict[str, ParameterShape]:
        """The shape of each parameter of a checkpoint by its path."""
        return names.parameter_shapes(self.decoder) | ({} if self.encoder is None else self.encoder.parameters())

    def stored(self) -> dict[str, ParameterShape]:
        """The shape of each tensor of a checkpoint by its name."""
        kernels = {} if self.encoder is None else {"vision/patch_proj": self.encoder.kernel}
        return {self.huggingface(path): kernels.get(path, shape) for path, shape in self.parameters().items()}

    def weights(self, dtype: str, quantization: str | None) -> dict[str, Array]:
        """Each weight of a bundle by its path. Those of an encoder are never quantized: it runs once an image."""
        seen = {} if self.encoder is None else self.encoder.parameters()
        return names.weight_arrays(self.decoder, dtype, quantization) | {
            p: Array(shape, dtype) for p, shape in seen.items()
        }

    def huggingface(self, path: str) -> str:
        """The name of a parameter in a checkpoint."""
        if self.encoder is None or not path.startswith(("vision/", "projector/")):
            return names.huggingface_name(path)
        return self.encoder.huggingface(path)

    def ignored(self, name: str) -> bool:
        """Whether a tensor of a checkpoint takes no part in the computation."""
        return self.encoder is not None and self.encoder.ignored(name)


def read_model_config(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None, place: str = "config.json"
) -> ModelConfig:
    """The model of a Hugging Face configuration, and of its preprocessor_config.json where it takes images.

    Raises InputError with a line for each fault.
    """
    named = {named_architecture(config), config.get("model_type"), config.get("family")}
    for name, kind in SEEING.items():
        if named & {name, kind}:
            module = importlib.import_module(f"aot.models.families.{kind}")
            read: Callable[..., ModelConfig] = getattr(module, f"read_{kind}")
            return read(config, preprocessor, place)
    return ModelConfig(DecoderConfig.from_huggingface(config, place))


# Releases of transformers have put the parts of a model that sees below different names.
_SPELLINGS = (
    (re.compile(r"^(model\.language_model|language_model\.model)\."), "model."),
    (re.compile(r"^language_model\.lm_head\."), "lm_head."),
    (re.compile(r"^model\.(visual|vision_tower|multi_modal_projector)\."), r"\1."),
    (re.compile(r"^vision_tower\.vision_model\."), "vision_tower."),
)


def canonical_name(name: str) -> str:
    """The name of a tensor in a checkpoint, however the release that wrote it spelled it."""
    for pattern, replacement in _SPELLINGS:
        name = pattern.sub(replacement, name)
    return name
