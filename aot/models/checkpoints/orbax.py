"""Orbax checkpoints: the arrays under one subtree, read one by one with tensorstore, the rest left untouched.

Orbax keeps the arrays of a tree in a tensorstore database (or in directories) under their keys joined by dots and
lists them in `_METADATA`. Its own partial restore opens every array first and imports jax; this reads neither the
other arrays nor their headers. Source: orbax's "Checkpoint format guide".
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aot import closest
from aot.errors import InputError
from aot.models.checkpoints import arrays
from aot.models.families import names

if TYPE_CHECKING:
    import tensorstore

_METADATA = "_METADATA"
_ITEM = "default"
_EMPTY = ("None", "Dict", "List", "Tuple")  # value types of leaves that hold nothing
_VARIABLE = "/value"  # below the path of each variable, where an nnx.State was saved as it is
_EMBEDDING, _HEAD = "embed/tokens", "head/output"


@dataclass(frozen=True)
class _Tree:
    """What `_METADATA` says: how arrays are stored, and each one's name in the store by its path."""

    directory: Path
    ocdbt: bool
    zarr3: bool
    hollow: bool
    """Whether chunks that hold nothing but zeros were left out."""
    leaves: Mapping[str, str]


def check_orbax(directory: Path, subtree: str, parameters: Mapping[str, tuple[int, ...]], dtype: str) -> None:
    """Compares the arrays under `subtree` with `parameters`, by their headers.

    Raises InputError with a line for each one that is missing, not used, or of a wrong shape or dtype.
    """
    arrays.weight_dtype(dtype)
    _opened(_tree(directory), subtree, parameters)


def orbax_tensors(
    directory: Path, subtree: str, parameters: Mapping[str, tuple[int, ...]], dtype: str
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Each path of `parameters` and its array in `dtype`, in their order, read when it is asked for.

    `subtree` names the keys above the paths, separated by `/`. Raises InputError as `check` does, before the first one.
    """
    wanted = arrays.weight_dtype(dtype)
    tree = _tree(directory)
    opened = _opened(tree, subtree, parameters)
    return _stream(tree.directory, opened, parameters, wanted)


def orbax_dtype(directory: Path, subtree: str, parameters: Mapping[str, tuple[int, ...]]) -> str | None:
    """The dtype that most elements of the parameters have, of those that weights can have; None without any."""
    tree = _tree(directory)
    leaves = _under(tree, subtree)
    opened = (_open(tree, leaves[path]) for path in parameters if path in leaves)
    kinds = {dtype: kind for kind, dtype in arrays.DTYPES.items()}
    return arrays.prevailing_dtype((kinds.get(store.dtype.numpy_dtype, ""), tuple(store.shape)) for store in opened)


def _stream(
    directory: Path, opened: Mapping[str, Any], parameters: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    if _HEAD in opened and _HEAD not in parameters:
        head, embedding = (_read(directory, path, opened[path], dtype) for path in (_HEAD, _EMBEDDING))
        if head.tobytes() != embedding.tobytes():
            raise InputError(
                f"checkpoint {directory}: array {_HEAD!r} differs from {_EMBEDDING!r}, though tie_word_embeddings is "
                f"true; set it to false, or remove {_HEAD!r}"
            )
    for path in parameters:
        yield path, _read(directory, path, opened[path], dtype)


def _opened(tree: _Tree, subtree: str, parameters: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """An open tensorstore for each parameter, and for the head that is the embedding once more."""
    place = f"checkpoint {tree.directory}"
    leaves = _under(tree, subtree)
    wanted = dict(parameters)
    if _HEAD in leaves and _HEAD not in parameters and _EMBEDDING in parameters:
        leaves.setdefault(_EMBEDDING, leaves[_HEAD])
        wanted[_HEAD] = parameters[_EMBEDDING]
    opened = {path: _open(tree, leaves[path]) for path in wanted if path in leaves}
    surplus: dict[str, tuple[int, ...]] = {path: () for path in leaves if path not in wanted}
    found = surplus | {path: tuple(store.shape) for path, store in opened.items()}
    lines = names.name_faults(wanted, found, place, "array")
    lines += names.cut_lines(
        [
            f"{place}: array {path!r} is stored as {store.dtype.name}, which is not one of {_kinds()}"
            for path, store in opened.items()
            if store.dtype.numpy_dtype not in arrays.DTYPES.values()
        ],
        f"{place}: arrays of a wrong dtype",
    )
    if lines:
        raise InputError("\n".join(lines))
    return opened


def _kinds() -> str:
    return ", ".join(dtype.name for dtype in arrays.DTYPES.values())


def _under(tree: _Tree, subtree: str) -> dict[str, str]:
    """The leaves below `subtree`, by the rest of their paths."""
    prefix = "".join(f"{part}/" for part in subtree.split("/") if part)
    below = {path.removeprefix(prefix): name for path, name in tree.leaves.items() if path.startswith(prefix)}
    found = {path.removesuffix(_VARIABLE): name for path, name in below.items()}
    if not found:
        tops = sorted({path.rpartition("/")[0] for path in tree.leaves} | {path.split("/")[0] for path in tree.leaves})
        hint = closest.closest_hint(subtree, tops, "it has")
        raise InputError(f"checkpoint {tree.directory}: model.subtree: nothing lies under {subtree!r}; {hint}")
    return found


def _open(tree: _Tree, name: str) -> "tensorstore.TensorStore":
    import tensorstore

    file = {"driver": "file", "path": f"{tree.directory.absolute()}/"}
    store = {"driver": "ocdbt", "base": file, "path": f"{name}/"}
    if not tree.ocdbt:
        store = {"driver": "file", "path": f"{tree.directory.absolute()}/{name}/"}
    # Where Orbax stores every chunk, one that is not there was lost; by default it would read as zeros.
    spec = {"driver": "zarr3" if tree.zarr3 else "zarr", "kvstore": store, "fill_missing_data_reads": tree.hollow}
    try:
        return tensorstore.open(spec, open=True, read=True).result()
    except ValueError as error:
        raise _damaged(tree.directory, name, error) from None


def _read(directory: Path, path: str, store: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    try:
        array = store.read(order="C").result()
    except ValueError as error:
        raise _damaged(directory, path, error) from None
    return arrays.cast_tensor(array, dtype, f"checkpoint {directory}: array {path!r}")


def _damaged(directory: Path, name: str, error: ValueError) -> InputError:
    cause = " ".join(str(error).split(" [tensorstore_spec=")[0].split())
    return InputError(f"checkpoint {directory}: array {name!r} cannot be read: {cause}; copy the checkpoint again")


def _tree(directory: Path) -> _Tree:
    file = _item(directory) / _METADATA
    try:
        metadata = json.loads(file.read_bytes())
        leaves = dict(_leaves(metadata["tree_metadata"]))
        zarr3 = bool(metadata.get("use_zarr3", False))
        # Only zarr3 has a value to leave out. Releases before 0.11 did not store it, and do not say that they did.
        hollow = zarr3 and not metadata.get("store_array_data_equal_to_fill_value", False)
        return _Tree(file.parent, bool(metadata.get("use_ocdbt", True)), zarr3, hollow, leaves)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; give the directory of one Orbax checkpoint") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{file}: is not the metadata of an Orbax checkpoint: {error!r}; copy it again") from None


def _leaves(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for leaf in table.values():
        parts = [str(part["key"]) for part in leaf["key_metadata"]]
        if leaf["value_metadata"]["value_type"] not in _EMPTY:
            yield "/".join(parts), ".".join(parts)


def _item(directory: Path) -> Path:
    """The directory of the tree itself: the one given, or its `default` item."""
    for candidate in (directory, directory / _ITEM):
        if os.path.exists(candidate / _METADATA):
            return candidate
    inside = sorted(
        path.parent.relative_to(directory) for depth in ("*", "*/*") for path in directory.glob(f"{depth}/{_METADATA}")
    )
    if inside:
        listed = ", ".join(repr(str(path)) for path in inside[:8])
        raise InputError(f"checkpoint {directory}: is no tree but holds {listed}; name one of these")
    raise InputError(f"checkpoint {directory}: holds no {_METADATA}; give the directory of one Orbax checkpoint")
