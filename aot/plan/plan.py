"""Plan: all that a build depends on, defaults filled in, nothing implicit left."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aot import digest
from aot.precompile import Combo
from aot.sampling import Restrictions, SamplingParams
from aot.targets import Target, target_of


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

    def to_json(self) -> str:
        """Canonical JSON, from which `from_json` makes an equal plan."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain["model"] = {name: str(v) if isinstance(v, Path) else v for name, v in vars(self.model).items()}
        plain["targets"] = [{t.platform: _spelled(t.plain()[t.platform])} for t in self.targets]
        plain["partition"] = None if self.partition is None else _spelled(self.partition)
        plain["combos"] = [combo.dimensions() for combo in self.combos]
        if self.generation is not None:
            plain["generation"] = dataclasses.asdict(self.generation)
        return digest.canonical_text(plain)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """The plan that `to_json` wrote."""
        plain = json.loads(text)
        tuples = {name: tuple(plain[name]) for name in ("dropped", "platforms", "allow_custom_calls")}
        targets = (target_of({name: _read(o) for name, o in target.items()}) for target in plain["targets"])
        return cls(
            **{
                **plain,
                **tuples,
                "targets": tuple(targets),
                "partition": None if plain["partition"] is None else _read(plain["partition"]),
                "model": _model(plain["model"]),
                "combos": tuple(map(Combo.from_dict, plain["combos"])),
                "generation": _generation(plain["generation"]),
            }
        )


def _spelled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with their mesh as pairs: the order of its axes is that of the devices, and JSON's names are sorted."""
    mesh = options.get("mesh")
    return {**options, "mesh": list(map(list, mesh.items()))} if mesh else dict(options)


def _read(options: dict[str, Any]) -> dict[str, Any]:
    mesh = options.get("mesh")
    return {**options, "mesh": dict(mesh)} if mesh else options


def _model(plain: dict[str, Any]) -> ModelPlan:
    paths = {name: Path(plain[name]) for name in ("checkpoint", "tokenizer", "directory") if plain[name] is not None}
    return ModelPlan(**{**plain, **paths})


def _generation(plain: dict[str, Any] | None) -> GenerationPlan | None:
    if plain is None:
        return None
    restrictions = Restrictions(**{name: tuple(value) for name, value in plain["restrictions"].items()})
    eos, sampling = tuple(plain["eos_token_id"]), SamplingParams(**plain["sampling"])
    return GenerationPlan(**{**plain, "eos_token_id": eos, "sampling": sampling, "restrictions": restrictions})
