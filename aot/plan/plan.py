"""Plan: all that a build depends on, defaults filled in, nothing implicit left."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aot.precompile import Combo
from aot.sampling import Restrictions, SamplingParams
from aot.targets import Target


@dataclass(frozen=True)
class ModelPlan:
    """A checkpoint with its configuration, or a factory with its arguments. Paths are for the builder only."""

    checkpoint: Path | None
    config: Mapping[str, Any] | None
    """The Hugging Face configuration; None for a factory."""
    preprocessor: Mapping[str, Any] | None
    """How images are prepared for the model; None for one that takes none."""
    sources: Mapping[str, str]
    """The digest of each file that configurations were read from, by kind and name."""
    dtype: str | None
    quantization: str | None
    tokenizer: Path | None
    """A directory that holds tokenizer.json, or a tokenizer of another kind."""
    subtree: str
    """The subtree of an Orbax checkpoint in which the parameters lie."""
    factory: str | None
    """`package.module:callable`, imported with `directory` first."""
    arguments: Mapping[str, Any]
    directory: Path
    """The manifest's."""


@dataclass(frozen=True)
class GenerationPlan:
    """What a language model's requests default to, and what its decode programs are made for."""

    vocab_size: int
    max_new_tokens: int
    num_return_sequences: int | Mapping[str, int]
    """A number, or one for the key of every combo."""
    streaming_chunks: int
    logits: str
    eos_token_id: tuple[int, ...]
    """Empty: generation never ends by itself."""
    pad_token_id: int
    bos_token_id: int | None
    sampling: SamplingParams
    restrictions: Restrictions


@dataclass(frozen=True)
class Plan:
    """What `resolve` gives and every stage of a build reads."""

    name: str
    model: ModelPlan
    combos: tuple[Combo, ...]
    dropped: tuple[str, ...]
    """A line for each mapping of `precompile` whose product has combos that can serve no request."""
    generation: GenerationPlan | None
    """None where the model is no language model."""
    platforms: tuple[str, ...]
    targets: tuple[Target, ...]
    partition: Mapping[str, Any] | None
    allow_custom_calls: tuple[str, ...]
    max_combos: int
