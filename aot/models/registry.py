"""describe(config): what the planner has to know of a model before any of its code is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aot.errors import InputError
from aot.models.config import DecoderConfig


@dataclass(frozen=True)
class Description:
    """The facts of a model that a plan depends on."""

    family: str
    vocab_size: int
    max_positions: int
    dtype: str | None
    """Of the checkpoint, under its numpy name; None where the configuration does not say."""


def describe(config: Mapping[str, Any], place: str = "config.json") -> Description:
    """The Description of a Hugging Face configuration. Raises InputError for a model that cannot be built."""
    decoder = DecoderConfig.from_huggingface(config, place)
    return Description(decoder.family, decoder.vocab_size, decoder.max_positions, _dtype(config, place))


def _dtype(config: Mapping[str, Any], place: str) -> str | None:
    value = config.get("dtype") or config.get("torch_dtype")
    if value is None or value == "auto":
        return None
    if not isinstance(value, str):
        raise InputError(f"{place}: dtype: must be the name of a type as 'bfloat16', got {value!r}")
    return value.removeprefix("torch.")
