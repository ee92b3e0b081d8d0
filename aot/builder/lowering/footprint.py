"""What a plan asks of each device of a mesh: how every array lies there, and the bytes that this takes."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from aot import devices, partition
from aot.builder.lowering import layouts
from aot.builder.lowering.layouts import Laid
from aot.chain import Array
from aot.partition import Axes, Layouts
from aot.slots import GATHERED, STATE, WEIGHT, prefixes
from aot.targets import Target

if TYPE_CHECKING:
    from aot.models.protocol import BuildableModel


_NEARLY = 0.9
"""The share of a device's memory from which on weights and state leave programs little of their own."""


@dataclass(frozen=True)
class Footprint:
    """What a plan asks of each device of one mesh, in bytes."""

    mesh: Mapping[str, int]
    rules: tuple[tuple[str, int], ...]
    """Each pattern and how many arrays it was the first to match."""
    arrays: tuple["Placement", ...]
    weights: int
    """Bytes that one device holds, gathered weights included."""
    state: int
    """Bytes of one generation's state, its KV cache included, for the combo that has most."""


@dataclass(frozen=True)
class Placement:
    """One array on a mesh."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    axes: Axes
    rule: str | None
    whole: tuple[str, ...]
    """Why axes are whole that a rule would split."""


def footprints_of(laid: Iterable[Laid], meshes: Iterable[Layouts], model: "BuildableModel") -> tuple[Footprint, ...]:
    """The footprint on each mesh, one device included."""
    laid = tuple(laid)
    return tuple(_on(on, [each for each in laid if each.mesh == on.mesh], model) for on in meshes)


def oversized(targets: Iterable[Target], footprints: Iterable[Footprint]) -> Iterator[str]:
    """A line for each target whose devices do not hold the weights and one generation's state."""
    for place, held, memory in _compared(targets, footprints):
        if sum(held) > memory:
            yield (
                f"{place}: each device would hold {_spelled(held)}, and has {_gib(memory)}; give a mesh of more "
                "devices, devices with more memory, a narrower dtype, or fewer rows and shorter caches in precompile"
            )


def nearly_full(targets: Iterable[Target], footprints: Iterable[Footprint]) -> Iterator[str]:
    """A line for each target whose devices weights and state nearly fill."""
    for place, held, memory in _compared(targets, footprints):
        if sum(held) >= _NEARLY * memory:
            yield (
                f"{place}: each device would hold {_spelled(held)} of the {_gib(memory)} that it has, "
                f"{100 * sum(held) / memory:.0f} %, and programs take memory of their own beside them"
            )


def _compared(targets: Iterable[Target], footprints: Iterable[Footprint]) -> Iterator[tuple[str, tuple[int, int], int]]:
    """Each target whose memory is known: its place, what its devices hold of weights and state, and what they have."""
    by_mesh = {tuple(found.mesh.items()): found for found in footprints}
    for number, target in enumerate(targets):
        found, memory = by_mesh[tuple(target.mesh.items())], devices.device_memory(target)
        if memory is not None:
            yield f"targets[{number}]: {target.platform}", (found.weights, found.state), memory


def _spelled(held: tuple[int, int]) -> str:
    return f"weights of {_gib(held[0])} and state of {_gib(held[1])}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _on(on: Layouts, laid: list[Laid], model: "BuildableModel") -> Footprint:
    mesh = on.mesh
    by_combo: dict[int, dict[str, int]] = {}
    known: dict[int, dict[str, int]] = {}
    for each in laid:
        # on one device equal chains lie alike, and most combos share theirs with others
        chain = id(each) if mesh else id(each.chain)
        if chain not in known:
            known[chain] = dict(_shares(each, mesh))
        by_combo.setdefault(each.position, {}).update(known[chain])
    weights = {slot: size for sizes in by_combo.values() for slot, size in sizes.items() if slot.startswith(_STORED)}
    states = [sum(size for slot, size in sizes.items() if STATE.holds(slot)) for sizes in by_combo.values()]
    unused = {p: _bytes(a) for p, a in model.abstract_weights().items() if WEIGHT.slot(p) not in weights}
    return Footprint(
        mesh=dict(mesh),
        rules=tuple((pattern, len(paths)) for pattern, paths in on.matches.items()),
        arrays=tuple(_placements(on, laid)),
        weights=sum(weights.values()) + sum(unused.values()),
        state=max(states, default=0),
    )


_STORED = prefixes(WEIGHT, GATHERED)


def _shares(laid: Laid, mesh: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """The slot of each weight and state that a chain takes, and the bytes that one device has of it."""
    for slot, array, axes in _arguments(laid):
        if slot.startswith(_STORED) or STATE.holds(slot):
            yield (
                slot,
                _bytes(Array(partition.device_share(array.shape, mesh, axes) if axes else array.shape, array.dtype)),
            )


def _arguments(laid: Laid) -> Iterator[tuple[str, Array, Axes]]:
    for call, placed in zip(laid.chain.calls, laid.programs, strict=True):
        slots, axes = dict(call.takes), dict(placed.arguments)
        for name, array in call.program.arguments:
            yield slots[name], array, axes.get(name, ())


def _placements(on: Layouts, laid: list[Laid]) -> Iterator[Placement]:
    if not on.laid:
        return
    dtypes = {(layouts.path(slot), array.shape): array.dtype for each in laid for slot, array, _ in _arguments(each)}
    for (path, shape, *_), layout in on.laid.items():
        dtype = dtypes.get((path, shape), "")
        yield Placement(path, dtype, shape, layout.axes, layout.rule, layout.whole)


@cache
def _bytes(array: Array) -> int:
    import jax.numpy as jnp

    return math.prod(array.shape) * jnp.dtype(array.dtype).itemsize
