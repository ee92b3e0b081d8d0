"""The model that a manifest names: where it lies, its configuration, and whether its weight files fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot import digest
from aot.errors import InputError
from aot.plan.manifest import Manifest
from aot.plan.plan import ModelPlan
from aot.plan.tokens import read_json

if TYPE_CHECKING:
    from aot.models.registry import Description

_CONFIG = "config.json"


@dataclass(frozen=True)
class Source:
    """A ModelPlan, what is known of a checkpoint's model, and the directory of its generation_config.json."""

    plan: ModelPlan
    description: "Description | None" = None
    files: Path | None = None


def of(manifest: Manifest, faults: list[str]) -> Source:
    """The source that `model` names; what is wrong with it is added to the faults."""
    model = manifest.content.model
    tokenizer = None
    if model.tokenizer is not None:
        with manifest.collecting(faults, "model", "tokenizer"):
            tokenizer = _tokenizer(manifest.directory / model.tokenizer)
    plan = ModelPlan(
        checkpoint=None,
        config=None,
        dtype=model.dtype,
        quantization=model.quantization,
        tokenizer=tokenizer,
        subtree=model.subtree,
        factory=model.factory,
        arguments=model.arguments,
        directory=manifest.directory.resolve(),
    )
    if model.checkpoint is None:
        return Source(plan)
    with manifest.collecting(faults, "model", "checkpoint"):
        return _of_checkpoint(manifest, plan, manifest.directory / model.checkpoint, faults)
    return Source(plan)


def _of_checkpoint(manifest: Manifest, plan: ModelPlan, directory: Path, faults: list[str]) -> Source:
    from aot.models import checkpoint

    kind = checkpoint.kind(directory)
    key = "config" if kind == "orbax" else "checkpoint"
    with manifest.collecting(faults, "model", key):
        return _described(manifest, plan, directory, kind, faults)
    return Source(plan)


def _described(manifest: Manifest, plan: ModelPlan, directory: Path, kind: str, faults: list[str]) -> Source:
    from aot.models import registry

    config, place, files = _configuration(manifest, directory, kind)
    description = registry.describe(config, place)
    dtype = plan.dtype or description.dtype or "float32"  # as transformers reads a config that does not say
    with manifest.collecting(faults, "model", "checkpoint"):
        _check(directory, kind, plan.subtree, config, dtype)
    tokenizer = plan.tokenizer
    if tokenizer is None and manifest.content.model.tokenizer is None and (directory / "tokenizer.json").is_file():
        tokenizer = directory.resolve()
    made = ModelPlan(
        **{**vars(plan), "checkpoint": directory.resolve(), "config": config, "dtype": dtype, "tokenizer": tokenizer}
    )
    return Source(made, description, files)


def _configuration(manifest: Manifest, directory: Path, kind: str) -> tuple[dict[str, Any], str, Path]:
    """The configuration, what messages call it, and where the files beside it lie."""
    from aot.models import checkpoint

    given = manifest.content.model.config
    if kind == "huggingface":
        if given is not None:
            raise InputError(f"{directory} has a {_CONFIG} of its own; remove model.config, which is for Orbax")
        return _plain(checkpoint.read_config(directory)), str(directory / _CONFIG), directory
    if given is None:
        raise InputError(f"is missing, and the Orbax checkpoint {directory} has none; give a {_CONFIG}")
    if isinstance(given, dict):
        return _plain(given), "config", directory
    file = manifest.directory / given
    file = file / _CONFIG if file.is_dir() else file
    if not file.is_file():
        raise InputError(f"{file} is no file; give a {_CONFIG}, or its fields")
    return _plain(read_json(file)), str(file), file.parent


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without the field in which transformers leaves a path of the machine that wrote the file."""
    plain = {name: value for name, value in config.items() if name != "_name_or_path"}
    try:
        digest.canonical_json(plain)
    except (TypeError, ValueError) as error:
        raise InputError(f"{_CONFIG}: {error}; correct the file") from None
    return plain


def _check(directory: Path, kind: str, subtree: str, config: Mapping[str, Any], dtype: str) -> None:
    from aot.models import checkpoint

    if kind == "huggingface":
        checkpoint.check(directory, config, dtype)
        return
    from aot.models import names, orbax
    from aot.models.config import DecoderConfig

    orbax.check(directory, subtree, names.parameters(DecoderConfig.from_huggingface(config)), dtype)


def _tokenizer(path: Path) -> Path:
    directory = path.parent if path.name == "tokenizer.json" else path
    if not (directory / "tokenizer.json").is_file():
        raise InputError(f"{directory} has no tokenizer.json; give a directory that has one")
    return directory.resolve()
