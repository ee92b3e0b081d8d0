"""The model that a manifest names: where it lies, its configuration, and whether its weight files fit."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot import digest, tokenizer_files
from aot.errors import InputError
from aot.faults import Faults
from aot.plan.files import Files
from aot.plan.manifests.manifest import Manifest
from aot.plan.plan import ModelPlan

if TYPE_CHECKING:
    from aot.models.families.family import ModelConfig
    from aot.models.families.registry import Description

_CONFIG = "config.json"
_PREPROCESSOR = "preprocessor_config.json"
_ODD = {math.inf: "Infinity", -math.inf: "-Infinity"}


@dataclass(frozen=True)
class Source:
    """A ModelPlan, what is known of a checkpoint's model, and the files beside its configuration."""

    plan: ModelPlan
    description: "Description | None" = None
    files: Files | None = None


def source_of(manifest: Manifest, faults: Faults) -> Source:
    """The source that `model` names; what is wrong with it is added to the faults."""
    model = manifest.content.model
    tokenizer = None
    if model.tokenizer is not None:
        with faults.collecting(manifest.place("model", "tokenizer")):
            tokenizer = _tokenizer(manifest.directory / model.tokenizer)
    plan = ModelPlan(
        checkpoint=None,
        config=None,
        preprocessor=None,
        sources={},
        dtype=model.dtype,
        quantization=model.quantization,
        tokenizer=tokenizer,
        subtree=model.subtree,
        factory=model.factory,
        arguments=model.arguments,
        directory=manifest.directory.resolve(),
    )
    if model.checkpoint is None:
        _check_name(manifest, plan.directory, faults)
        return Source(plan)
    with faults.collecting(manifest.place("model", "checkpoint")):
        return _of_checkpoint(manifest, plan, manifest.directory / model.checkpoint, faults)
    return Source(plan)


def _check_name(manifest: Manifest, directory: Path, faults: Faults) -> None:
    """Jax names the files of the functions that it lowers, and ends in `std::bad_cast` where a name is no text."""
    try:
        str(directory).encode()
    except UnicodeEncodeError:
        where = manifest.place("model", "factory")
        faults.add(where, f"lies below {str(directory)!r}, a name that is not UTF-8, which jax does not lower; move it")


def _of_checkpoint(manifest: Manifest, plan: ModelPlan, directory: Path, faults: Faults) -> Source:
    from aot.models.checkpoints import checkpoint

    kind = checkpoint.checkpoint_kind(directory)
    key = "config" if kind == "orbax" else "checkpoint"
    with faults.collecting(manifest.place("model", key)):
        return _described(manifest, plan, directory, kind, faults)
    return Source(plan)


def _described(manifest: Manifest, plan: ModelPlan, directory: Path, kind: str, faults: Faults) -> Source:
    from aot.models.families import family, registry

    config, place, files = _configuration(manifest, directory, kind)
    preprocessor = _preprocessor(files)
    model = family.read_model_config(config, preprocessor, place)
    if model.encoder is None:
        preprocessor = None
    description = registry.describe_model(model, config, place)
    dtype = plan.dtype or description.dtype
    with faults.collecting(manifest.place("model", "checkpoint")):
        dtype = dtype or _stored_dtype(directory, kind, plan.subtree, model)
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


def _configuration(manifest: Manifest, directory: Path, kind: str) -> tuple[dict[str, Any], str, Files]:
    """The configuration, what messages call it, and the files beside it."""
    from aot.models.checkpoints import checkpoint

    given = manifest.content.model.config
    if kind == "huggingface":
        if given is not None:
            raise InputError(f"{directory} has a {_CONFIG} of its own; remove model.config, which is for Orbax")
        files = Files(directory)
        config = files.json(_CONFIG) or checkpoint.read_config(directory)  # which says what is wrong without one
        return _plain(config, _CONFIG), str(directory / _CONFIG), files
    if given is None:
        raise InputError(f"is missing, and the Orbax checkpoint {directory} has none; give a {_CONFIG}")
    if isinstance(given, dict):
        return _plain(given, "config"), "config", Files(directory)
    file = manifest.directory / given
    file = file / _CONFIG if file.is_dir() else file
    if not file.is_file():
        raise InputError(f"{file} is no file; give a {_CONFIG}, or its fields")
    files = Files(file.parent, "config")
    return _plain(files.json(file.name), file.name), str(file), files


def _preprocessor(files: Files) -> dict[str, Any] | None:
    """The fields that say how images are prepared, in the file of their own or in that of a whole processor."""
    found = files.json(_PREPROCESSOR) or files.json("processor_config.json").get("image_processor")
    return _plain(found, _PREPROCESSOR) if isinstance(found, dict) else None


def _plain(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Without what transformers leaves of the machine that wrote the file: the path of the checkpoint before it."""
    plain: dict[str, Any] = _portable(fields)
    try:
        digest.canonical_json(plain)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}; correct the file") from None
    return plain


def _portable(value: Any) -> Any:
    """Without such paths, and numbers that JSON does not have as releases of transformers from the fifth write them."""
    if isinstance(value, Mapping):
        return {name: _portable(item) for name, item in value.items() if name != "_name_or_path"}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": _ODD.get(value, "NaN")}
    return value


def _stored_dtype(directory: Path, kind: str, subtree: str, model: "ModelConfig") -> str:
    """The dtype of a checkpoint whose configuration does not say: that of most of its weights, which may be absent."""
    from aot.models.checkpoints import checkpoint, orbax

    if kind == "huggingface":
        found = checkpoint.checkpoint_dtype(directory)
    else:
        found = orbax.orbax_dtype(directory, subtree, model.parameters())
    return found or "float32"


def _check(directory: Path, kind: str, subtree: str, model: "ModelConfig", dtype: str) -> None:
    from aot.models.checkpoints import checkpoint, orbax

    if kind == "huggingface":
        checkpoint.check_checkpoint(directory, model, dtype)
    else:
        orbax.check_orbax(directory, subtree, model.parameters(), dtype)


def _tokenizer(path: Path) -> Path:
    directory = path.parent if path.name == "tokenizer.json" else path
    if not tokenizer_files.found(directory):
        raise InputError(f"{directory} has no tokenizer.json; give a directory that has one")
    return directory.resolve()
