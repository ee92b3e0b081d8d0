"""describe(model): what the planner has to know of a model before any of its code is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aot.errors import InputError
from aot.models.families.family import ModelConfig
from aot.vision import Images


@dataclass(frozen=True)
class Description:
    """The facts of a model that a plan depends on."""

    family: str
    vocab_size: int
    max_positions: int
    dtype: str | None
    """The checkpoint's dtype by its numpy name; None where the configuration does not say."""
    images: Images | None
    """What the model makes of images; None for one that takes none."""


def describe_model(model: ModelConfig, config: Mapping[str, Any], place: str = "config.json") -> Description:
    """The Description of a model and of the Hugging Face configuration that it was read from."""
    decoder, encoder = model.decoder, model.encoder
    images = None if encoder is None else encoder.images
    return Description(model.family, decoder.vocab_size, decoder.max_positions, _dtype(config, place), images)


def _dtype(config: Mapping[str, Any], place: str) -> str | None:
    value = config.get("dtype") or config.get("torch_dtype")
    if value is None or value == "auto":
        return None
    if not isinstance(value, str):
        raise InputError(f"{place}: dtype: must be the name of a type as 'bfloat16', got {value!r}")
    return value.removeprefix("torch.")
