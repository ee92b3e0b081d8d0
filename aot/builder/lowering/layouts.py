"""How the arrays of each program lie on each mesh: from what the slots are called, by the partition rules."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from aot.builder.lowering import gather, sources
from aot.builder.pace import Pace, Progress
from aot.chain import Call, Chain, Program
from aot.errors import ManifestError
from aot.partition import Axes, Dimensions, Layout, Layouts, Mesh
from aot.slots import GATHERED, SOURCE, STATE, WEIGHT, slot_of

if TYPE_CHECKING:
    from aot.models.protocol import BuildableModel
    from aot.plan import Plan
    from aot.precompile import Combo

Shapes = Mapping[str, tuple[int, ...]]
NamedAxes = tuple[tuple[str, Axes], ...]


@dataclass(frozen=True)
class Placed:
    """A program, where it is to run, and how its arguments and results lie there; two equal ones lower to one."""

    program: Program
    platform: str
    mesh: tuple[tuple[str, int], ...]
    arguments: NamedAxes
    results: NamedAxes
    """Empty on one device, as the arguments are."""


@dataclass(frozen=True)
class Laid:
    """The chain of one phase of a combo on one platform and mesh, and the program of each call."""

    position: int
    """The combo's position in the plan."""
    combo: "Combo"
    platform: str
    mesh: Mesh
    phase: str
    chain: Chain
    programs: tuple[Placed, ...]


def laid_out_chains(
    plan: "Plan", model: "BuildableModel", key: str | None = None, progress: Progress = lambda *_: None
) -> tuple[list[Laid], list[Layouts]]:
    """Every chain of a plan, or of one of its combos, and the layouts on each mesh there is.

    `progress` hears of each combo. Raises ManifestError, a line for each fault of the rules.
    """
    from aot.plan import meshes

    rules, made = meshes.rules(plan), dict[tuple[tuple[str, int], ...], Layouts]()
    laid: list[Laid] = []
    clock = Pace(len(plan.combos))
    for position, combo in enumerate(plan.combos):
        if key not in (None, combo.key):
            continue
        for platform in plan.platforms:
            for mesh in meshes.on(plan, platform):
                layouts = made.setdefault(tuple(mesh.items()), Layouts(mesh, rules))
                laid += _combo(position, combo, platform, layouts, model)
        progress("", clock.left(1), len(plan.combos))
    place = f"manifest {plan.name!r}: partition"
    if faults := [f"{place}: {text}" for mesh, layouts in made.items() if mesh for text in layouts.wrong()]:
        raise ManifestError(*dict.fromkeys(faults))
    return laid, list(made.values())


def distinct(laid: Iterable[Laid]) -> set[Placed]:
    """The programs of some chains, each once: equal ones lower alike."""
    return {placed for each in laid for placed in each.programs}


def _combo(position: int, combo: "Combo", platform: str, layouts: Layouts, model: "BuildableModel") -> Iterator[Laid]:
    dimensions = sources.dimensions(model, combo)
    chains = model.chains(combo, platform, layouts.mesh)
    if layouts.mesh and layouts.rules.gather:
        weights = {slot: shape for chain in chains.values() for slot, shape in _taken(chain) if WEIGHT.holds(slot)}
        split = {slot for slot, shape in weights.items() if layouts.of(path(slot), shape, "", dimensions).split}
        chains = gather.gathered(chains, split)
    shapes = dict(pair for chain in chains.values() for pair in _taken(chain)) if layouts.mesh else {}
    for phase, chain in chains.items():
        placed = (_placed(call, platform, phase, shapes, layouts, dimensions) for call in chain.calls)
        yield Laid(position, combo, platform, layouts.mesh, phase, chain, tuple(placed))


def _taken(chain: Chain) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The slot and the shape of every argument of a chain."""
    for call in chain.calls:
        slots = dict(call.takes)
        yield from ((slots[name], array.shape) for name, array in call.program.arguments)


def _placed(call: Call, platform: str, phase: str, shapes: Shapes, layouts: Layouts, dimensions: Dimensions) -> Placed:
    """What a call gives back to the caller, every device has whole, so that any process can read it."""
    if not layouts.mesh:
        return _alone(call.program, platform)

    def layout(slot: str, shape: tuple[int, ...]) -> Layout:
        if GATHERED.holds(slot):
            return Layout((None,) * len(shape), None)
        return layouts.of(path(slot), shape, phase, dimensions)

    takes = dict(call.takes)
    arguments = [(name, layout(takes[name], array.shape).axes) for name, array in call.program.arguments]
    results = [(name, layout(slot, shapes[slot]).axes if slot in shapes else ()) for name, slot in call.gives]
    return Placed(call.program, platform, tuple(layouts.mesh.items()), tuple(arguments), tuple(results))


@cache
def _alone(program: Program, platform: str) -> Placed:
    return Placed(program, platform, (), (), ())


def path(slot: str) -> str:
    """What rules call the array of a slot: weights by their path alone, the state of another generation as state."""
    kind, name = slot_of(slot)
    return name if kind == WEIGHT else STATE.slot(name) if kind == SOURCE else slot
