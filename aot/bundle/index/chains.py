"""What holds between chains and what they call: what lies in each slot, call by call."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from aot.bundle.index.bounds import Mesh
from aot.bundle.index.contracts import Layout
from aot.bundle.index.records import ArgumentRecord, BindingRecord, ChainRecord, EntryRecord, Index, RepeatRecord
from aot.chain import GATHER
from aot.slots import GATHERED, INPUT, OUTPUT, SOURCE, STATE, VALUE, WEIGHT, prefixes, slot_of

_LASTING = prefixes(INPUT, STATE)  # slots that hold something whatever is called
_HOLDS: Layout = ("bool", (), ())
_COUNT: Layout = ("int32", (), ())
_OWN = prefixes(INPUT, STATE, VALUE)  # slots whose arrays a call may use up


@dataclass
class _Known:
    """What the calls seen so far say of the arrays on one platform and mesh."""

    weights: dict[str, Layout] = field(default_factory=dict)
    carried: dict[int, dict[str, Layout]] = field(default_factory=dict)
    """State, and what is gathered, of each combo."""
    sources: list[tuple[str, dict[str, Layout]]] = field(default_factory=list)
    """Places at which states of other generations are read, and the arrays of these."""
    begun: dict[int, set[str]] = field(default_factory=dict)
    """Slots of state that the prefill of each combo takes or gives."""


def chain_faults(index: Index) -> Iterator[str]:
    """What does not hold in chains, each with its path."""
    known: dict[tuple[str, Mesh], _Known] = {}
    layouts = _Layouts(index)
    # what is gathered is given before it is taken
    ordered = sorted(enumerate(index.entries), key=lambda numbered: numbered[1].phase != GATHER)
    for i, entry in ordered:
        if len({(chain.platform, chain.mesh) for chain in entry.chains}) < len(entry.chains):
            yield f"entries[{i}].chains: two for one platform and mesh"
        if entry.phase != GATHER and not entry.chains:
            yield f"entries[{i}].chains: must hold at least one chain"
        for j, chain in enumerate(entry.chains):
            seen = known.setdefault((chain.platform, chain.mesh), _Known())
            if (fault := next(_calls(index, chain), "")) or (fault := _Walk(layouts, entry, seen).run(chain)):
                yield f"entries[{i}].chains[{j}]{fault}"
                return
    for seen in known.values():
        for combo, begun in seen.begun.items() if index.generation is not None else ():
            if lacking := sorted(slot for slot in seen.carried[combo].keys() - begun if STATE.holds(slot)):
                yield f"combos[{combo}]: its prefill has no {lacking[0]!r}, which another phase goes on with"
        for where, wanted in seen.sources:
            if not any(wanted.items() <= state.items() for state in seen.carried.values()):
                yield f"{where}: reads the state of another generation, and no combo's is like it"


def _calls(index: Index, chain: ChainRecord) -> Iterator[str]:
    if not chain.calls:
        yield ".calls: must hold at least one call"
    for i, j in dict.fromkeys(chain.calls):
        for kind, position, rows in (("program", i, index.programs), ("binding", j, index.bindings)):
            if position >= len(rows):
                yield f".calls: there is no {kind} {position}, there are {len(rows)}"
                return
        program, binding = index.programs[i], index.bindings[j]
        if (program.platform, program.mesh) != (chain.platform, chain.mesh):
            yield (
                f".calls: program {i} is for {program.platform!r} {dict(program.mesh)}, "
                f"the chain for {chain.platform!r} {dict(chain.mesh)}"
            )
        counts = (len(program.arguments), len(program.results)), (len(binding.takes), len(binding.gives))
        if counts[0] != counts[1]:
            yield f".calls: program {i} takes and gives {counts[0]} arrays, binding {j} {counts[1]}"


class _Layouts:
    """The layouts of an index, equal ones the same object: of each argument, by its identity, and of each weight."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.weights = WEIGHT.slots({path: (a.dtype, a.shape) for path, a in index.weights.arrays.items()})
        self._known: dict[Layout, Layout] = {}
        self._of: dict[int, Layout] = {}
        self._calls: dict[int, _Arrays] = {}

    def arrays(self, program: int) -> "_Arrays":
        """What a program takes and gives."""
        if program not in self._calls:
            record = self.index.programs[program]
            takes, gives = map(self._each, (record.arguments, record.results))
            donated = tuple(place for place, argument in enumerate(record.arguments) if argument.donated)
            self._calls[program] = _Arrays(takes, gives, donated)
        return self._calls[program]

    def _each(self, records: tuple[ArgumentRecord, ...]) -> list[Layout]:
        for record in records:
            if id(record) not in self._of:
                layout = record.dtype, record.shape, record.sharding
                self._of[id(record)] = self._known.setdefault(layout, layout)
        return [self._of[id(record)] for record in records]


class _Arrays(NamedTuple):
    """Layouts of the arguments and results of a program, and the places of what it uses up."""

    takes: list[Layout]
    gives: list[Layout]
    donated: tuple[int, ...]


class _Walk:
    """A chain, call by call: what lies in each slot."""

    def __init__(self, layouts: _Layouts, entry: EntryRecord, known: _Known) -> None:
        self._layouts, self._index, self._known = layouts, layouts.index, known
        self._phase = self._index.phases[entry.phase]
        self._combo = self._index.combos[entry.combo]
        self._entry, self._name = entry, entry.phase
        self._carried = known.carried.setdefault(entry.combo, {})
        self._lies = dict(self._carried)
        self._gone: set[str] = set()
        self._stacked: dict[str, int] = {}
        self._source: dict[str, Layout] = {}

    def run(self, chain: ChainRecord) -> str:
        """What does not hold in it, by the way to it from the chain; empty where all does."""
        if chain.repeat is not None:
            self._stacked = dict.fromkeys(chain.repeat.stacked, chain.repeat.most)
        if fault := self._run(chain):
            return fault
        if self._name == "prefill":
            self._known.begun[self._entry.combo] = self._states(chain)
        if self._source:
            self._known.sources.append((f"phases[{self._name!r}]", self._source))
        return next(self._ends(), "")

    def _run(self, chain: ChainRecord) -> str:
        repeat, end = chain.repeat, len(chain.calls)
        if repeat is None:
            return self._span(chain, 0, end)
        if chain.mesh or not repeat.begin < repeat.end <= end:
            return f".repeat: must be of calls, of which there are {end}, on one device"
        if fault := self._span(chain, 0, repeat.begin) or self._repeated(repeat):
            return fault
        before = dict(self._lies)
        for _ in range(2):  # a second turn is given what the first one leaves
            if fault := self._span(chain, repeat.begin, repeat.end):
                return fault
            if odd := sorted(slot for slot, layout in before.items() if self._lies.get(slot) != layout):
                return f".repeat: a turn leaves something else in {odd[0]!r}, or nothing"
        # nor is anything else there where there was no turn
        kept = {slot: layout for slot, layout in self._lies.items() if slot in before or slot.startswith(_LASTING)}
        self._lies = kept | {repeat.count: _COUNT}
        return self._span(chain, repeat.end, end)

    def _repeated(self, repeat: RepeatRecord) -> str:
        """What is wrong with how calls are repeated, before the first turn."""
        if self._lies.get(repeat.slot) != _HOLDS:
            return f".repeat: {repeat.slot!r} must hold a bool before, to say whether there is a turn"
        if self._axes(repeat.count) != () or repeat.count in self._lies:
            return f".repeat: {repeat.count!r} must be an output without axes that no call gives"
        for slot in repeat.stacked:
            if slot not in self._lies or (self._axes(slot) or ())[1:2] != (None,):
                return f".repeat: {slot!r} must be an output that is given before, and has an axis for turns"
        return ""

    def _axes(self, slot: str) -> tuple[str | None, ...] | None:
        """What the phase says of an output; None of any other slot."""
        return self._phase.outputs.get(slot_of(slot).path) if OUTPUT.holds(slot) else None

    def _span(self, chain: ChainRecord, begin: int, end: int) -> str:
        for number, (i, j) in enumerate(chain.calls[begin:end], begin):
            if fault := self._call(self._layouts.arrays(i), self._index.bindings[j]):
                return f".calls[{number}]: program {self._index.programs[i].name}: {fault}"
        return ""

    def _call(self, arrays: _Arrays, binding: BindingRecord) -> str:
        lies, weights = self._lies, self._known.weights
        for slot, layout in zip(binding.takes, arrays.takes, strict=True):
            # what lies there already, in most cases: ten thousand programs have a hundred thousand such
            if lies.get(slot) is not layout and weights.get(slot) is not layout and (fault := self._take(slot, layout)):
                return fault
        for place in arrays.donated:
            if fault := self._use_up(binding.takes[place], binding.takes):
                return fault
        for slot, layout in zip(binding.gives, arrays.gives, strict=True):
            if lies.get(slot) is not layout and (fault := self._give(slot, layout)):
                return fault
        return ""

    def _states(self, chain: ChainRecord) -> set[str]:
        """The slots of state that calls take or give."""
        bindings = [self._index.bindings[j] for j in {j for _, j in chain.calls}]
        return {s for each in bindings for s in (*each.takes, *each.gives) if s.startswith(STATE.prefix)}

    def _take(self, slot: str, layout: Layout) -> str:
        source, name = slot_of(slot)
        held: Layout | None = self._lies.get(slot)
        if slot in self._gone:
            return f"takes {slot!r}, which an earlier call used up"
        if source is WEIGHT:
            held = self._known.weights.setdefault(slot, layout)
            if self._layouts.weights[slot] != layout[:2]:
                return f"takes {_shown(layout)} for {slot!r}, which is {_shown((*self._layouts.weights[slot], ()))}"
        elif source is SOURCE:
            held = self._source.setdefault(STATE.slot(name), layout)
        elif held is None and source is INPUT:
            if fault := self._sized(slot, name, layout, self._phase.inputs):
                return fault
            held = self._lies[slot] = layout
        elif held is None and source is STATE:
            held = self._lies[slot] = self._carried[slot] = layout
        elif held is None:
            return f"takes {slot!r}, which nothing gives before"
        return _unlike(slot, held, layout)

    def _use_up(self, slot: str, takes: tuple[str, ...]) -> str:
        if not slot.startswith(_OWN):
            return f"uses up {slot!r}, which others take"
        if takes.count(slot) > 1:
            return f"uses up {slot!r}, which it takes twice"
        del self._lies[slot]
        self._gone.add(slot)
        return ""

    def _give(self, slot: str, layout: Layout) -> str:
        source, name = slot_of(slot)
        self._gone.discard(slot)
        self._lies[slot] = layout
        if source is OUTPUT:
            return self._sized(slot, name, layout, self._phase.outputs)
        if source is GATHERED and self._name != GATHER:
            return f"gives {slot!r}, which the phase {GATHER!r} gives alone"
        return "" if source is VALUE else _unlike(slot, self._carried.setdefault(slot, layout), layout)

    def _sized(self, slot: str, name: str, layout: Layout, phase: Mapping[str, tuple[str | None, ...]]) -> str:
        """The sides of an input or output are the combo's dimensions."""
        shape, axes = layout[1], phase.get(name)
        if slot in self._stacked:
            shape = (*shape[:1], self._stacked[slot], *shape[1:])
        if axes is None or len(axes) != len(shape):
            return f"{slot!r} has {len(shape)} axes, its phase says {axes!r}"
        for axis, side in zip(axes, shape, strict=True):
            if axis is not None and self._combo.dimensions.get(axis) != side:
                return f"{slot!r} has the shape {list(shape)}, {axis} is {self._combo.dimensions.get(axis)!r}"
        return ""

    def _ends(self) -> Iterator[str]:
        """All inputs are taken and all outputs given, and no state is used up for good."""
        there = self._lies.keys() | self._gone
        needed = self._phase.inputs.keys() - set(self._phase.partial)
        if idle := sorted(name for name in needed if INPUT.slot(name) not in there):
            yield f": does not take the input {idle[0]!r} of its phase"
        if lacking := sorted(name for name in self._phase.outputs if OUTPUT.slot(name) not in self._lies):
            yield f": does not give the output {lacking[0]!r} of its phase"
        if lost := sorted(slot for slot in self._gone if STATE.holds(slot)):
            yield f": uses up {lost[0]!r} and gives none"


def _unlike(slot: str, held: Layout, layout: Layout) -> str:
    return "" if held == layout else f"takes or gives {_shown(layout)} in {slot!r}, where {_shown(held)} lies"


def _shown(layout: Layout) -> str:
    dtype, shape, axes = layout
    over = f" over {list(axes)}" if any(axes) else ""
    return f"{dtype}{list(shape)}{over}"
