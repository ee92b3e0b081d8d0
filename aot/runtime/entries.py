"""Which entries a bundle has for a platform, and whether this machine runs them as built: from the index alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from aot import isa
from aot.bundle.records import ArgumentRecord, Axes, BindingRecord, ChainRecord, ExecutableRecord, Index, ProgramRecord
from aot.errors import MachineError
from aot.precompile import Combo
from aot.runtime.client import Place

PLATFORM = "cpu"
"""What this runtime runs on."""

ONE_DEVICE = Place(PLATFORM)

_SHOWN = 8  # features that a cause names


@dataclass(frozen=True)
class Entry:
    """One phase of one combo, with its calls in one place, which are read when they are first used."""

    index: Index
    combo: Combo
    key: str
    phase: str
    place: Place
    chains: Sequence[ChainRecord]

    @cached_property
    def chain(self) -> ChainRecord | None:
        """Its calls. Without them the platform cannot run it."""
        return next((chain for chain in self.chains if (chain.platform, chain.mesh) == self.place), None)

    @cached_property
    def calls(self) -> tuple[tuple[ProgramRecord, BindingRecord], ...]:
        """Each call's program and binding, in order. Raises MachineError where this platform has none."""
        if self.chain is None:
            raise MachineError(f"bundle: {_absent(self)}")
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
    alike = (entry for entry in index.entries if entry.combo == 0)  # every combo is lowered for the same meshes
    meshes = dict.fromkeys(c.mesh for e in alike for c in e.chains if c.platform == PLATFORM)
    if devices is None:
        return Place(PLATFORM, next((mesh for mesh in meshes if not mesh), next(iter(meshes), ())))
    sizes = {mesh: math.prod(size for _, size in mesh) for mesh in meshes}
    if fitting := [mesh for mesh in meshes if sizes[mesh] <= devices]:
        return Place(PLATFORM, max(fitting, key=sizes.__getitem__))
    raise MachineError(
        f"bundle: built for meshes of {', '.join(map(str, sizes.values()))} devices, given {devices}; rebuild it for a"
        " mesh of as many, or give more"
    )


def of(index: Index, place: Place) -> tuple[Entry, ...]:
    """All entries, in the order of the index."""
    combos = [Combo(**dict(record.dimensions)) for record in index.combos]
    keys = [record.key for record in index.combos]
    return tuple(Entry(index, combos[e.combo], keys[e.combo], e.phase, place, e.chains) for e in index.entries)


def layout(index: Index, place: Place) -> dict[str, Axes]:
    """How the programs for a mesh take each weight, by its slot: one and the same way. Empty on one device."""
    if not place.mesh:
        return {}
    chains = (chain for entry in index.entries for chain in entry.chains if (chain.platform, chain.mesh) == place)
    calls = {call for chain in chains for call in chain.calls}
    taken = ((index.bindings[b].takes, index.programs[p].arguments) for p, b in calls)
    pairs = (pair for slots, arguments in taken for pair in zip(slots, arguments, strict=True))
    return {slot: argument.sharding for slot, argument in pairs if slot.startswith("weight/")}


def verdict(entry: Entry) -> Verdict:
    """The worst among the entry's programs."""
    if entry.chain is None:
        return Verdict(entry, "unusable", _absent(entry))
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


def _absent(entry: Entry) -> str:
    have = ", ".join(sorted({chain.platform for chain in entry.chains})) or "no platform"
    return f"no program for {entry.place.platform}, only for {have}; rebuild with platforms: [{entry.place.platform}]"


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
