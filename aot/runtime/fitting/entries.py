"""Which entries a bundle has for a platform, and whether this machine runs them as built: from the index alone."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from aot.bundle.index.bounds import Axes, Mesh
from aot.bundle.index.records import (
    ArgumentRecord,
    BindingRecord,
    ChainRecord,
    ExecutableRecord,
    Index,
    ProgramRecord,
    RepeatRecord,
)
from aot.errors import MachineError
from aot.partition import spelled_mesh
from aot.precompile import Combo
from aot.runtime.fitting import fit, machine
from aot.runtime.place import Place
from aot.slots import INPUT, SOURCE, WEIGHT

PLATFORM = "cpu"
"""What every machine has."""

_ACCELERATORS = ("tpu", "cuda")

ONE_DEVICE = Place(PLATFORM)


@dataclass(frozen=True)
class Entry:
    """One phase of one combo, with its calls in one place, which are read when they are first used."""

    index: Index
    combo: Combo
    combo_key: str
    phase: str
    place: Place
    chains: Sequence[ChainRecord]

    @cached_property
    def chain(self) -> ChainRecord | None:
        """The calls of the entry. Without them the platform cannot run it."""
        return next((chain for chain in self.chains if (chain.platform, chain.mesh) == self.place), None)

    @cached_property
    def calls(self) -> tuple[tuple[ProgramRecord, BindingRecord], ...]:
        """Each call's program and binding, in order. Raises MachineError where this platform has none."""
        if self.chain is None:
            raise MachineError(f"bundle: {_absent(self)}")
        return tuple((self.index.programs[p], self.index.bindings[b]) for p, b in self.chain.calls)

    @property
    def repeat(self) -> RepeatRecord | None:
        """Which of the calls are made in turns."""
        return None if self.chain is None else self.chain.repeat

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
        return INPUT.paths(self.taken)

    @cached_property
    def sources(self) -> dict[str, ArgumentRecord]:
        """The arrays of another state that it reads, by path."""
        return SOURCE.paths(self.taken)

    @cached_property
    def left(self) -> dict[str, ArgumentRecord]:
        """Slots that are there after the chain, each with what it holds."""
        left = dict(self.taken)
        for program, binding in self.calls:
            left.update(zip(binding.gives, program.results, strict=True))
        return left


@dataclass(frozen=True)
class EntryVerdict:
    """Whether an entry is `ready`, `compiles` or is `unusable` on this machine, and why."""

    entry: Entry
    verdict: str
    cause: str


def find_place(index: Index, devices: int | None = None, platform: str | None = None) -> Place:
    """Where the bundle of an index runs on this machine: on the largest of its meshes that so many devices hold.

    Unless it is said how many: on one device, and a bundle without programs for one on its first mesh. `platform` is
    the one to take whatever else this machine has. Raises MachineError where every mesh is larger.
    """
    platform = platform or platform_of(index)
    meshes = _meshes(index, platform)
    if devices is None:
        return Place(platform, next((mesh for mesh in meshes if not mesh), next(iter(meshes), ())))
    if fitting := [mesh for mesh, size in meshes.items() if size <= devices]:
        return Place(platform, max(fitting, key=meshes.__getitem__))
    given = f"{devices} device{'s' * (devices > 1)}"
    raise MachineError(
        f"bundle: built for {_built(meshes)}, given {given}; rebuild it for a mesh of as many, or give more"
    )


def one_device(index: Index) -> Place:
    """One device. Raises MachineError for a bundle that has no programs for one."""
    platform = platform_of(index)
    if (meshes := _meshes(index, platform)) and () not in meshes:
        raise MachineError(f"bundle: built for {_built(meshes)}, replicas serve programs of one; rebuild for that")
    return Place(platform)


def shared_place(index: Index, processes: int, devices: int | None = None) -> Place:
    """The first mesh of which several processes can have equal parts; of the largest, where it is said how many
    devices there are. Raises MachineError where there is none.
    """
    platform = platform_of(index)
    meshes = _meshes(index, platform)
    sizes = {
        mesh: size for mesh, size in meshes.items() if mesh and size % processes == 0 and size <= (devices or size)
    }
    if not sizes:
        room = "" if devices is None else f" of {devices} devices"
        raise MachineError(
            f"bundle: built for {_built(meshes)}, which {processes} processes{room} cannot share equally; start as many"
            " as divide it, or rebuild"
        )
    return Place(platform, next(iter(sizes)) if devices is None else max(sizes, key=sizes.__getitem__))


def _meshes(index: Index, platform: str) -> dict[Mesh, int]:
    """The number of devices of each mesh that a bundle has programs for, in the order of the index."""
    meshes = dict.fromkeys(chain.mesh for chain in _first(index) if chain.platform == platform)
    return {mesh: math.prod(size for _, size in mesh) for mesh in meshes}


def _built(meshes: Mapping[Mesh, int]) -> str:
    return (
        " and ".join(f"the mesh {spelled_mesh(dict(mesh))}" if mesh else "one device" for mesh in meshes)
        or "nothing here"
    )


def platform_of(index: Index) -> str:
    """The platform on which this machine runs a bundle as built, an accelerator first; failing that what there is."""
    calls = {(chain.platform, program) for chain in _first(index) for program, _ in chain.calls}
    found = {platform for platform, _ in calls}
    have = [name for name in _ACCELERATORS if name in found and machine.accelerators_of(name).devices]
    fits = (
        name for name in have if any(fitting_executable(index.programs[p]) for platform, p in calls if platform == name)
    )
    return next(fits, PLATFORM if PLATFORM in found or not have else have[0])


def _first(index: Index) -> list[ChainRecord]:
    """The chains of the first combo: every one is lowered for the same platforms and meshes."""
    return [chain for entry in index.entries if entry.combo == 0 for chain in entry.chains]


def entries_of(index: Index, place: Place) -> tuple[Entry, ...]:
    """All entries, in the order of the index."""
    combos = [Combo(**dict(record.dimensions)) for record in index.combos]
    combo_keys = [record.key for record in index.combos]
    return tuple(Entry(index, combos[e.combo], combo_keys[e.combo], e.phase, place, e.chains) for e in index.entries)


def weight_layout(index: Index, place: Place) -> dict[str, Axes]:
    """How the programs for a mesh take each weight, by its slot: one and the same way. Empty on one device."""
    if not place.mesh:
        return {}
    chains = (chain for entry in index.entries for chain in entry.chains if (chain.platform, chain.mesh) == place)
    calls = {call for chain in chains for call in chain.calls}
    taken = ((index.bindings[b].takes, index.programs[p].arguments) for p, b in calls)
    pairs = (pair for slots, arguments in taken for pair in zip(slots, arguments, strict=True))
    return {slot: argument.sharding for slot, argument in pairs if WEIGHT.holds(slot)}


def programs_of(found: Iterable[Entry]) -> Iterator[ProgramRecord]:
    """The programs of entries, each once, in the order in which these call them."""
    seen: set[int] = set()
    for entry in found:
        for place, _ in entry.chain.calls if entry.chain else ():
            if place not in seen:
                seen.add(place)
                yield entry.index.programs[place]


def judge_entry(entry: Entry) -> EntryVerdict:
    """The worst among the entry's programs."""
    if entry.chain is None:
        return EntryVerdict(entry, "unusable", "; ".join([*_elsewhere(entry), _absent(entry)]))
    chosen = []
    for program, _ in entry.calls:
        chosen.append(fitting_executable(program))
        if chosen[-1] is None:
            elsewhere = () if program.executables else _elsewhere(entry)
            cause = "; ".join([misfit_of_program(program), *elsewhere])
            return EntryVerdict(entry, "compiles", f"program {program.name}: {cause}")
    remarks = dict.fromkeys(fit.remark_on(executable) for executable in chosen if executable is not None)
    return EntryVerdict(entry, "ready", "; ".join(filter(None, remarks)))


def fitting_executable(program: ProgramRecord) -> ExecutableRecord | None:
    """The executable that this machine runs as built; of several the one for the richest instruction set."""
    fits = [executable for executable in program.executables if fit.misfit_cause(executable) is None]
    return max(fits, key=lambda e: len(e.requires.get("features", ())), default=None)


def misfit_of_program(program: ProgramRecord) -> str:
    """Why none of the program's executables runs here as built."""
    return "; ".join(_causes(program)) or f"no executable for {program.platform} was built"


def _causes(program: ProgramRecord) -> list[str]:
    causes = (fit.misfit_cause(executable) for executable in program.executables)
    return list(dict.fromkeys(cause for cause in causes if cause is not None))


def _elsewhere(entry: Entry) -> list[str]:
    """Why what was built of an entry for other platforms does not run here."""
    others = (chain for chain in entry.chains if chain is not entry.chain)
    programs = (entry.index.programs[p] for chain in others for p, _ in chain.calls[:1])
    return list(dict.fromkeys(cause for program in programs for cause in _causes(program)))


def _absent(entry: Entry) -> str:
    have = ", ".join(sorted({chain.platform for chain in entry.chains})) or "no platform"
    return f"no program for {entry.place.platform}, only for {have}; rebuild with platforms: [{entry.place.platform}]"
