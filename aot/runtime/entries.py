"""Which entries a bundle has for a platform, and whether this machine runs them as built: from the index alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from aot import isa
from aot.bundle.records import (
    ArgumentRecord,
    Axes,
    BindingRecord,
    ChainRecord,
    ExecutableRecord,
    Index,
    Mesh,
    ProgramRecord,
)
from aot.errors import MachineError
from aot.partition import spelled
from aot.precompile import Combo
from aot.runtime.client import Place

PLATFORM = "cpu"
"""What this runtime runs on."""

ONE_DEVICE = Place(PLATFORM)

_SHOWN = 8  # features that a cause names


@dataclass(frozen=True)
class Entry:
    """One phase of one combo, with its calls on one platform. Without a chain the platform cannot run it."""

    index: Index
    combo: Combo
    key: str
    phase: str
    chain: ChainRecord | None

    @cached_property
    def calls(self) -> tuple[tuple[ProgramRecord, BindingRecord], ...]:
        """Each call's program and binding, in order. Raises MachineError where this platform has none."""
        if self.chain is None:
            raise MachineError(f"bundle: {_absent(self, PLATFORM)}")
        return tuple((self.index.programs[p], self.index.bindings[b]) for p, b in self.chain.calls)

    @cached_property
    def taken(self) -> dict[str, ArgumentRecord]:
        """Slots that must be there before the chain starts, each with the argument that first takes it."""
        taken: dict[str, ArgumentRecord] = {}
        given: set[str] = set()
        for program, binding in self.calls:
            for slot, argument in zip(binding.takes, program.arguments, strict=True):
                if slot not in given:
                    taken.setdefault(slot, argument)
            given.update(binding.gives)
        return taken

    @cached_property
    def inputs(self) -> dict[str, ArgumentRecord]:
        """What a caller gives, by name."""
        return {slot.removeprefix("input/"): a for slot, a in self.taken.items() if slot.startswith("input/")}


@dataclass(frozen=True)
class Verdict:
    """Whether an entry is `ready`, `compiles` or is `unusable` on this machine, and why."""

    entry: Entry
    verdict: str
    cause: str


def place(index: Index, devices: int | None = None) -> Place:
    """Where the bundle of an index runs on this machine: on the largest of its meshes that so many devices hold.

    Unless it is said how many: on one device, and a bundle without programs for one on its first mesh.
    Raises MachineError where every mesh is larger.
    """
    meshes = _meshes(index)
    if devices is None:
        return Place(PLATFORM, next((mesh for mesh in meshes if not mesh), next(iter(meshes), ())))
    if fitting := [mesh for mesh, size in meshes.items() if size <= devices]:
        return Place(PLATFORM, max(fitting, key=meshes.__getitem__))
    given = f"{devices} device{'s' * (devices > 1)}"
    raise MachineError(
        f"bundle: built for {_built(meshes)}, given {given}; rebuild it for a mesh of as many, or give more"
    )


def one(index: Index) -> Place:
    """One device. Raises MachineError for a bundle that has no programs for one."""
    if (meshes := _meshes(index)) and () not in meshes:
        raise MachineError(f"bundle: built for {_built(meshes)}, replicas serve programs of one; rebuild for that")
    return ONE_DEVICE


def shared(index: Index, processes: int, devices: int | None = None) -> Place:
    """The first mesh of which several processes can have equal parts; of the largest, where it is said how many
    devices there are. Raises MachineError where there is none.
    """
    meshes = _meshes(index)
    sizes = {
        mesh: size for mesh, size in meshes.items() if mesh and size % processes == 0 and size <= (devices or size)
    }
    if not sizes:
        room = "" if devices is None else f" of {devices} devices"
        raise MachineError(
            f"bundle: built for {_built(meshes)}, which {processes} processes{room} cannot share equally; start as many"
            " as divide it, or rebuild"
        )
    return Place(PLATFORM, next(iter(sizes)) if devices is None else max(sizes, key=sizes.__getitem__))


def _meshes(index: Index) -> dict[Mesh, int]:
    """The number of devices of each mesh that a bundle has programs for, in the order of the index."""
    meshes = dict.fromkeys(c.mesh for e in index.entries for c in e.chains if c.platform == PLATFORM)
    return {mesh: math.prod(size for _, size in mesh) for mesh in meshes}


def _built(meshes: Mapping[Mesh, int]) -> str:
    return (
        " and ".join(f"the mesh {spelled(dict(mesh))}" if mesh else "one device" for mesh in meshes) or "nothing here"
    )


def of(index: Index, place: Place) -> tuple[Entry, ...]:
    """All entries, in the order of the index."""
    combos = [Combo(**dict(record.dimensions)) for record in index.combos]
    made = []
    for record in index.entries:
        chain = next((c for c in record.chains if (c.platform, c.mesh) == place), None)
        made.append(Entry(index, combos[record.combo], index.combos[record.combo].key, record.phase, chain))
    return tuple(made)


def layout(index: Index, place: Place) -> dict[str, Axes]:
    """How the programs for a mesh take each weight, by its slot: one and the same way. Empty on one device."""
    if not place.mesh:
        return {}
    chains = (chain for entry in index.entries for chain in entry.chains if (chain.platform, chain.mesh) == place)
    calls = {call for chain in chains for call in chain.calls}
    taken = ((index.bindings[b].takes, index.programs[p].arguments) for p, b in calls)
    pairs = (pair for slots, arguments in taken for pair in zip(slots, arguments, strict=True))
    return {slot: argument.sharding for slot, argument in pairs if slot.startswith("weight/")}


def verdict(entry: Entry, platform: str) -> Verdict:
    """The worst among the entry's programs."""
    if entry.chain is None:
        return Verdict(entry, "unusable", _absent(entry, platform))
    for program, _ in entry.calls:
        if fitting(program) is None:
            return Verdict(entry, "compiles", f"program {program.name}: {misfit(program)}")
    return Verdict(entry, "ready", "")


def fitting(program: ProgramRecord) -> ExecutableRecord | None:
    """The executable that this machine runs as built; of several the one for the richest instruction set."""
    fits = [e for e in program.executables if _cause(e, program.platform) is None]
    return max(fits, key=lambda e: len(e.requires["features"]), default=None)


def misfit(program: ProgramRecord) -> str:
    """Why none of the program's executables runs here as built."""
    causes = [cause for e in program.executables if (cause := _cause(e, program.platform)) is not None]
    return "; ".join(dict.fromkeys(causes)) or f"no executable for {program.platform} was built"


def _absent(entry: Entry, platform: str) -> str:
    have = ", ".join(sorted({chain.platform for record in entry.index.entries for chain in record.chains}))
    return f"no program for {platform}, only for {have}; rebuild with platforms: [{platform}]"


def _cause(executable: ExecutableRecord, platform: str) -> str | None:
    (kind, options), *_ = executable.target.items()
    if kind != platform:
        return f"built for {kind}, this machine is {platform}"
    here = isa.machine()
    if executable.requires["machine"] != here.machine:
        return f"built for {executable.requires['machine']}, this machine is {here.machine}"
    if lacking := isa.missing(executable.requires, here):
        rest = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        return f"built for {_spelled(kind, options)}, this cpu lacks {', '.join(lacking[:_SHOWN])}{rest}"
    built = executable.compiler["jaxlib"]
    return None if jaxlib() == built else f"built by jaxlib {built}, this is {jaxlib()}"


@cache
def jaxlib() -> str:
    """The version of the jaxlib that is installed."""
    import jaxlib

    return str(jaxlib.__version__)


def _spelled(kind: str, options: Mapping[str, Any]) -> str:
    return " ".join([kind, str(options.get("isa", ""))]).strip()
