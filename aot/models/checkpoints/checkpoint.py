"""Hugging Face checkpoints: what a directory holds, whether it fits the model, and its tensors one by one."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aot import json_files
from aot.errors import InputError
from aot.models.checkpoints import arrays
from aot.models.checkpoints.arrays import Stored
from aot.models.families import family, names
from aot.models.families.family import ModelConfig

SINGLE = "model.safetensors"
SHARDED = "model.safetensors.index.json"

_ORBAX = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt")
_PICKLES = ("*.bin", "*.pt", "*.pth")
_NOT_WEIGHTS = ("training_args.bin",)
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors")
_HEAD = "lm_head.weight"
_EMBEDDING = names.huggingface_name("embed/tokens")
# Old checkpoints store the rotary frequencies, which follow from the configuration.
_IGNORED = ".rotary_emb.inv_freq"


def checkpoint_kind(directory: Path) -> str:
    """What the files of a directory are, "huggingface" or "orbax"; InputError where they are neither."""
    entries = _listing(directory)
    if any(name in entries for name in _ORBAX):
        return "orbax"
    if adapter := next((name for name in _ADAPTERS if name in entries), None):
        raise InputError(
            f"checkpoint {directory}: has {adapter}, an adapter (LoRA and the like), which is not applied; merge it "
            "with peft (merge_and_unload, then save_pretrained), or move it away to build the weights without it"
        )
    if "config.json" in entries or any(name.endswith(".safetensors") for name in entries) or _pickles(directory):
        return "huggingface"
    if any(os.path.exists(directory / entry / name) for entry in entries for name in _ORBAX):
        return "orbax"  # an item of a CheckpointManager's step, or one of its steps
    raise InputError(f"checkpoint {directory}: holds neither config.json nor an Orbax checkpoint; check the path")


def read_config(directory: Path) -> dict[str, Any]:
    """The fields of `config.json`."""
    _listing(directory)
    return _read_json(directory / "config.json")


def check_checkpoint(directory: Path, config: Mapping[str, Any] | ModelConfig, dtype: str) -> None:
    """Compares the headers of the weight files with what the model takes; no weight files at all is fine.

    Raises InputError with a line for each tensor that is missing, not used, or of a wrong shape or dtype.
    """
    arrays.weight_dtype(dtype)
    model = _read(config)
    if stored := _named(_stored(directory), model):
        _check(directory, stored, model)


def checkpoint_tensors(
    directory: Path, config: Mapping[str, Any] | ModelConfig, dtype: str
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Each parameter's path and its array in `dtype` (float32, bfloat16 or float16), in the order of `parameters`.

    One tensor is read when it is asked for, and none is kept. Raises InputError as `check` does, before the first one.
    """
    model = _read(config)
    stored = _named(_stored(directory), model)
    if not stored:
        raise InputError(f"checkpoint {directory}: holds no weights; put {SINGLE} or {SHARDED} with its files there")
    _check(directory, stored, model)
    return _stream(stored, model, dtype)


def checkpoint_dtype(directory: Path) -> str | None:
    """The dtype that most elements of the weights have, of those that weights can have; None without weight files."""
    return arrays.prevailing_dtype((tensor.kind, tensor.shape) for tensor in _stored(directory).values())


def weight_files(directory: Path) -> tuple[str, ...]:
    """The names of the weight files, the list of shards among them. Raises InputError where they do not open."""
    found = {tensor.file.name for tensor in _stored(directory).values()}
    return tuple(sorted(found if SINGLE in found or not found else {*found, SHARDED}))


def _stream(stored: dict[str, Stored], model: ModelConfig, dtype: str) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    if model.decoder.tie_embeddings and _HEAD in stored and stored[_HEAD] is not stored[_EMBEDDING]:
        _check_tied(stored[_EMBEDDING], stored[_HEAD])
    for path, shape in model.parameters().items():
        # A convolution's kernel is stored with all its axes, and taken as the matrix that it is.
        yield path, arrays.read_tensor(stored[model.huggingface(path)], dtype).reshape(shape)


def _check_tied(embedding: Stored, head: Stored) -> None:
    if not arrays.are_same_tensors(embedding, head):
        raise InputError(
            f"{head.file}: tensor {_HEAD!r} differs from {_EMBEDDING!r}, though tie_word_embeddings is true; "
            f"set it to false, or remove {_HEAD!r}"
        )


def _read(config: Mapping[str, Any] | ModelConfig) -> ModelConfig:
    return config if isinstance(config, ModelConfig) else family.read_model_config(config)


def _check(directory: Path, stored: dict[str, Stored], model: ModelConfig) -> None:
    shapes = model.stored()
    if model.decoder.tie_embeddings and _HEAD in stored:
        shapes[_HEAD] = shapes[_EMBEDDING]
    # Messages call a tensor what its file does; one that is missing has only the name that the model knows.
    wanted = {stored[name].name if name in stored else name: shape for name, shape in shapes.items()}
    unused = {name for name in stored if name not in shapes and (name.endswith(_IGNORED) or model.ignored(name))}
    found = {tensor.name: tensor for name, tensor in stored.items() if name not in unused}
    place = f"checkpoint {directory}"
    lines = names.name_faults(wanted, {name: tensor.shape for name, tensor in found.items()}, place, "tensor")
    lines += names.cut_lines(
        [
            f"{place}: tensor {name!r} is stored as {found[name].kind}, which is not one of {arrays.KINDS}"
            for name in wanted
            if name in found and found[name].kind not in arrays.DTYPES
        ],
        f"{place}: tensors of a wrong dtype",
    )
    if lines:
        raise InputError("\n".join(lines))


def _named(stored: dict[str, Stored], model: ModelConfig) -> dict[str, Stored]:
    """The tensors by the names that the model knows; InputError where two become one.

    Where embeddings are tied and the head alone is there, it is the embedding as well.
    """
    named = dict(stored) if model.encoder is None else _canonical(stored)
    if model.decoder.tie_embeddings and _HEAD in named:
        named.setdefault(_EMBEDDING, named[_HEAD])
    return named


def _canonical(stored: dict[str, Stored]) -> dict[str, Stored]:
    named: dict[str, Stored] = {}
    for name, tensor in stored.items():
        if (other := named.setdefault(family.canonical_name(name), tensor)) is not tensor:
            raise InputError(f"{tensor.file}: tensor {name!r} is {other.name!r} by another name; keep one of them")
    return named


def _stored(directory: Path) -> dict[str, Stored]:
    """The place of each tensor by its name; empty where there are no weight files."""
    entries = _listing(directory)
    if SINGLE in entries:
        return arrays.read_header(directory / SINGLE)
    if SHARDED in entries:
        return _shards(directory)
    if parts := sorted(name for name in entries if name.endswith(".safetensors")):
        raise InputError(
            f"checkpoint {directory}: has {parts[0]} but neither {SINGLE} nor {SHARDED}; add the one that is meant"
        )
    if pickles := _pickles(directory):
        raise InputError(
            f"checkpoint {directory}: has its weights only in {pickles[0]!r}, and pickle files are never read, "
            f"because they can run code; convert it with transformers: save_pretrained writes {SINGLE}"
        )
    return {}


def _shards(directory: Path) -> dict[str, Stored]:
    index = directory / SHARDED
    table = _read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise InputError(f"{index}: weight_map: must map tensors to files, got {table!r}; fetch the file again")
    shards = sorted({str(file) for file in table.values()})
    for file in shards:
        _check_shard(directory, index, file)
    stored = {file: arrays.read_header(directory / file) for file in shards}
    found = [(name, file) for file, header in stored.items() for name in header]
    wrong = sorted({(name, str(file)) for name, file in table.items()} ^ set(found))
    if wrong:
        name, file = wrong[0]
        verb = "is not" if table.get(name) == file else "is, unlisted,"
        raise InputError(
            f"{index}: tensor {name!r} {verb} in {file!r}, one of {len(wrong)} such; fetch the files again"
        )
    return {name: stored[file][name] for name, file in found}


def _check_shard(directory: Path, index: Path, file: str) -> None:
    if not file.endswith(".safetensors") or Path(file).name != file or "\\" in file:
        raise InputError(f"{index}: weight_map: {file!r} is not the name of a safetensors file beside it")
    if not os.path.exists(directory / file):
        raise InputError(f"{index}: weight_map: {file!r} does not exist; fetch it, or the whole checkpoint, again")


def _listing(directory: Path) -> set[str]:
    try:
        return set(os.listdir(directory))
    except OSError as error:
        raise InputError(f"checkpoint {directory}: {error.strerror}; give a directory with a checkpoint") from None


def _pickles(directory: Path) -> list[str]:
    found = {path.name for pattern in _PICKLES for path in directory.glob(pattern)}
    return sorted(found.difference(_NOT_WEIGHTS))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json_files.read_object(file)[1]
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; a Hugging Face checkpoint has it") from None
