"""The tables of an index as lowering fills them: each distinct program, binding and phase once."""

from collections.abc import Callable, Hashable
from typing import TypeVar

from aot.bundle.index.records import BindingRecord, ChainRecord, EntryRecord, PhaseRecord, ProgramRecord
from aot.errors import InputError

T = TypeVar("T")


class Tables:
    """Grows with every chain that is lowered."""

    def __init__(self) -> None:
        self.programs: list[ProgramRecord] = []
        self.bindings: list[BindingRecord] = []
        self.phases: dict[str, PhaseRecord] = {}
        self._chains: dict[tuple[int, str], list[ChainRecord]] = {}
        self._places: dict[Hashable, int] = {}

    def program(self, known: Hashable, lower: Callable[[], ProgramRecord]) -> int:
        """The position of the program known by this value; lowered if it is new, and stored if its digest is."""
        if known not in self._places:
            record = lower()
            self._places[known] = self._place(record.digest, record, self.programs)
        return self._places[known]

    def binding(self, record: BindingRecord) -> int:
        """The position of a binding."""
        return self._place(record, record, self.bindings)

    def phase(self, name: str, record: PhaseRecord) -> None:
        """Notes what a phase takes and gives: the same outputs everywhere, and inputs that mean the same."""
        known = self.phases.setdefault(name, record)
        shared = known.inputs.keys() & record.inputs.keys()
        if known.outputs != record.outputs or any(known.inputs[each] != record.inputs[each] for each in shared):
            raise InputError(f"model: phase {name!r}: its inputs and outputs differ between combos or platforms")
        partial = {*known.partial, *(known.inputs.keys() ^ record.inputs.keys())}
        self.phases[name] = PhaseRecord({**known.inputs, **record.inputs}, known.outputs, tuple(sorted(partial)))

    def chain(self, combo: int, phase: str, record: ChainRecord) -> None:
        """Adds the chain of an entry on one platform and mesh."""
        self._chains.setdefault((combo, phase), []).append(record)

    def entries(self) -> tuple[EntryRecord, ...]:
        """All entries, in the order in which they came."""
        return tuple(EntryRecord(combo, phase, tuple(chains)) for (combo, phase), chains in self._chains.items())

    def _place(self, known: Hashable, record: T, table: list[T]) -> int:
        place = self._places.setdefault(known, len(table))
        if place == len(table):
            table.append(record)
        return place
