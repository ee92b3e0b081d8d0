"""The model that a manifest names: where it lies, its configuration, and whether its weight files fit."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot import digest, tokenizer_files
from aot.errors import InputError
from aot.plan.manifest import Manifest
from aot.plan.plan import ModelPlan
from aot.plan.tokens import read_json

if TYPE_CHECKING:
    from aot.models.family import ModelConfig
    from aot.models.registry import Description

_CONFIG = "config.json"
_PREPROCESSOR = "preprocessor_config.json"


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
        preprocessor=None,
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
    from aot.models import family, registry

    config, place, files = _configuration(manifest, directory, kind)
    preprocessor = _preprocessor(files)
    model = family.read(config, preprocessor, place)
    if model.encoder is None:
        preprocessor = None
    description = registry.describe(model, config, place)
    dtype = plan.dtype or description.dtype or "float32"  # as transformers reads a config that does not say
    with manifest.collecting(faults, "model", "checkpoint"):
        _check(directory, kind, plan.subtree, model, dtype)
    tokenizer = plan.tokenizer
    if tokenizer is None and manifest.content.model.tokenizer is None and tokenizer_files.found(directory):
        tokenizer = directory.resolve()
    made = dataclasses.replace(
        plan,
        checkpoint=directory.resolve(),
        config=config,
        preprocessor=preprocessor,
        dtype=dtype,
        tokenizer=tokenizer,
    )
    return Source(made, description, files)


def _configuration(manifest: Manifest, directory: Path, kind: str) -> tuple[dict[str, Any], str, Path]:
    """The configuration, what messages call it, and where the files beside it lie."""
    from aot.models import checkpoint

    given = manifest.content.model.config
    if kind == "huggingface":
        if given is not None:
            raise InputError(f"{directory} has a {_CONFIG} of its own; remove model.config, which is for Orbax")
        return _plain(checkpoint.read_config(directory), _CONFIG), str(directory / _CONFIG), directory
    if given is None:
        raise InputError(f"is missing, and the Orbax checkpoint {directory} has none; give a {_CONFIG}")
    if isinstance(given, dict):
        return _plain(given, "config"), "config", directory
    file = manifest.directory / given
    file = file / _CONFIG if file.is_dir() else file
    if not file.is_file():
        raise InputError(f"{file} is no file; give a {_CONFIG}, or its fields")
    return _plain(read_json(file), file.name), str(file), file.parent


def _preprocessor(files: Path) -> dict[str, Any] | None:
    """The fields that say how images are prepared, in the file of their own or in that of a whole processor."""
    found = read_json(files / _PREPROCESSOR) or read_json(files / "processor_config.json").get("image_processor")
    return _plain(found, _PREPROCESSOR) if isinstance(found, dict) else None


def _plain(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Without what transformers leaves of the machine that wrote the file: the path of the checkpoint before it."""
    plain = _portable(fields)
    try:
        digest.canonical_json(plain)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}; correct the file") from None
    return plain


def _portable(fields: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in fields.items() if name != "_name_or_path"}
    return {name: _portable(value) if isinstance(value, dict) else value for name, value in kept.items()}


def _check(directory: Path, kind: str, subtree: str, model: "ModelConfig", dtype: str) -> None:
    from aot.models import checkpoint, orbax

    if kind == "huggingface":
        checkpoint.check(directory, model, dtype)
    else:
        orbax.check(directory, subtree, model.parameters(), dtype)


def _tokenizer(path: Path) -> Path:
    directory = path.parent if path.name == "tokenizer.json" else path
    if not tokenizer_files.found(directory):
        raise InputError(f"{directory} has no tokenizer.json; give a directory that has one")
    return directory.resolve()
