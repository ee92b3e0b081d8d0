"""Stored programs as functions of jax again: to be lowered where they are compiled, exported where they are renewed."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import export
from jax.sharding import AbstractMesh, AxisType

from aot.bundle.index.bounds import Mesh

Lay = Callable[[export.Exported], Sequence[Any]]
"""The sharding of each argument of a program."""


def read_export(data: bytes) -> export.Exported:
    """A stored program as jax exported it."""
    return export.deserialize(bytearray(data))


def abstract_mesh(mesh: Mesh) -> AbstractMesh:
    """A mesh that no device stands behind; of no axes for one device. XLA lays what no sharding is said of."""
    names = tuple(name for name, _ in mesh)
    return AbstractMesh(tuple(size for _, size in mesh), names, (AxisType.Auto,) * len(names))


def jit_export(
    exported: export.Exported, shardings: Sequence[Any], function: Any = None, results: Any = None
) -> tuple[Any, Any]:
    """A program, or a function that calls it, to be jitted; and its arguments, abstract, laid as the shardings say."""
    described = zip(exported.in_avals, shardings, strict=True)
    specs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding) for aval, sharding in described]
    arguments, _ = jax.tree.unflatten(exported.in_tree, specs)
    # `Exported.call` drops donation: it has to be asked for again, for the first argument as when it was exported.
    made = jax.jit(function or exported.call, donate_argnums=0, keep_unused=True, out_shardings=results)
    return made, arguments


def lower_export(data: bytes, lay: Lay) -> jax.stages.Lowered:
    """A stored program, lowered anew."""
    exported = read_export(data)
    made, arguments = jit_export(exported, lay(exported))
    return made.lower(*arguments)
