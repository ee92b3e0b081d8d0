"""What a plan asks of each device of a mesh: how every array lies there, and the bytes that this takes."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aot import partition
from aot.builder import layouts
from aot.builder.layouts import Laid, Placed
from aot.chain import Array, Call
from aot.partition import Axes, Layouts

if TYPE_CHECKING:
    from aot.models.protocol import Model


@dataclass(frozen=True)
class Footprint:
    """Of a plan on one mesh."""

    mesh: Mapping[str, int]
    rules: tuple[tuple[str, int], ...]
    """Each pattern and how many arrays it was the first to match."""
    arrays: tuple["Placement", ...]
    weights: int
    """Bytes that one device holds, gathered weights included."""
    state: int
    """The same of one generation's state, its KV cache included, for the combo that has most."""
    activations: int
    """An estimate: the most that is alive at a time in a program before XLA fuses, in equal shares."""


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


def of(laid: Iterable[Laid], meshes: Iterable[Layouts], model: "Model") -> tuple[Footprint, ...]:
    """The footprint on each mesh, one device included."""
    laid = tuple(laid)
    return tuple(_on(on, [each for each in laid if each.mesh == on.mesh], model) for on in meshes)


def _on(on: Layouts, laid: list[Laid], model: "Model") -> Footprint:
    mesh = on.mesh
    by_combo: dict[int, dict[str, int]] = {}
    for each in laid:
        by_combo.setdefault(each.position, {}).update(_shares(each, mesh))
    weights = {slot: size for sizes in by_combo.values() for slot, size in sizes.items() if slot.startswith(_STORED)}
    states = [sum(size for slot, size in sizes.items() if slot.startswith("state/")) for sizes in by_combo.values()]
    unused = {p: _bytes(a) for p, a in model.abstract_weights().items() if f"weight/{p}" not in weights}
    return Footprint(
        mesh=dict(mesh),
        rules=tuple((pattern, len(paths)) for pattern, paths in on.matches.items()),
        arrays=tuple(_placements(on, laid)),
        weights=sum(weights.values()) + sum(unused.values()),
        state=max(states, default=0),
        activations=max(map(_alive, _largest(laid)), default=0) // math.prod(mesh.values()),
    )


_STORED = ("weight/", "gathered/")


def _shares(laid: Laid, mesh: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """The slot of each argument of a chain, and the bytes that one device has of it."""
    for slot, array, axes in _arguments(laid):
        yield slot, _bytes(Array(partition.share(array.shape, mesh, axes) if axes else array.shape, array.dtype))


def _arguments(laid: Laid) -> Iterator[tuple[str, Array, Axes]]:
    for call, placed in zip(laid.chain.calls, laid.programs, strict=True):
        slots, axes = dict(call.takes), dict(placed.arguments)
        for name, array in call.program.arguments:
            yield slots[name], array, axes.get(name, ())


def _placements(on: Layouts, laid: list[Laid]) -> Iterator[Placement]:
    dtypes = {(layouts.path(slot), array.shape): array.dtype for each in laid for slot, array, _ in _arguments(each)}
    for (path, shape, *_), layout in on.laid.items():
        dtype = dtypes.get((path, shape), "")
        yield Placement(path, dtype, shape, layout.axes, layout.rule, layout.whole)


def _largest(laid: list[Laid]) -> list[Placed]:
    """Of the programs of each name the one with the most places in what it is handed, but for weights and state."""

    def places(pair: tuple[Call, Placed]) -> int:
        call, _ = pair
        slots = dict(call.takes)
        own = (a for n, a in call.program.arguments if slots[n].startswith(("value/", "input/")))
        return sum(math.prod(array.shape) for array in own)

    by_name: dict[str, list[tuple[Call, Placed]]] = {}
    for each in laid:
        for call, placed in zip(each.chain.calls, each.programs, strict=True):
            by_name.setdefault(call.program.name, []).append((call, placed))
    return [max(alike, key=places)[1] for alike in by_name.values()]


def _alive(placed: Placed) -> int:
    """The most bytes alive at a time in a program as traced, its arguments left out."""
    import jax

    arguments = {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in placed.program.arguments}
    return _peak(jax.make_jaxpr(lambda given: dict(placed.program.function(**given)))(arguments).jaxpr)


_IN_PLACE = ("dynamic_update_slice", "optimization_barrier", "scatter", "while")
"""Operations that give arrays back where they took them from: weights, a cache, what a loop carries."""


def _peak(jaxpr: Any) -> int:
    last = {id(v): n for n, equation in enumerate(jaxpr.eqns) for v in equation.invars}
    last |= {id(v): len(jaxpr.eqns) for v in jaxpr.outvars}
    alive: dict[int, int] = {}
    peak = 0
    for number, equation in enumerate(jaxpr.eqns):
        inner = max((_peak(getattr(each, "jaxpr", each)) for each in _inner(equation.params)), default=0)
        alive |= {id(v): math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in _made(equation)}
        peak = max(peak, sum(alive.values()) + inner)
        alive = {v: size for v, size in alive.items() if last.get(v, -1) > number}
    return peak


def _made(equation: Any) -> Any:
    """The results of an operation that are arrays of their own."""
    if equation.primitive.name in _IN_PLACE:
        return ()
    if equation.primitive.name != "scan":
        return equation.outvars
    step = getattr(equation.params["jaxpr"], "jaxpr", equation.params["jaxpr"]).outvars
    # of a scan's results only those stacked have one axis more than a step gives; the others are what it carries
    return [v for v, each in zip(equation.outvars, step, strict=True) if v.aval.ndim > each.aval.ndim]


def _inner(params: Mapping[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(getattr(each, "jaxpr", each), "eqns"):
                yield each


def _bytes(array: Array) -> int:
    import jax.numpy as jnp

    return math.prod(array.shape) * jnp.dtype(array.dtype).itemsize
