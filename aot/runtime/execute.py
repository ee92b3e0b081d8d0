"""Runs entries: slots in, calls in order, slots out. Knows nothing of what a model is."""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from aot import isa
from aot.bundle.index.bounds import Axes
from aot.bundle.index.records import ArgumentRecord, BindingRecord, ProgramRecord, RepeatRecord
from aot.bundle.store import Bundle
from aot.chain import GATHER
from aot.errors import InputError, MachineError
from aot.runtime.device import opening, placing, switching
from aot.runtime.device.client import Buffer, Client, numpy_dtype
from aot.runtime.executables import Executables, Policy
from aot.runtime.fitting import entries
from aot.runtime.fitting.entries import Entry
from aot.runtime.place import Place
from aot.runtime.values import HostArrays
from aot.slots import GATHERED, INPUT, OUTPUT, SOURCE, STATE, WEIGHT, prefixes, slot_of

Inputs = Mapping[str, Any]
"""Host arrays, or what `Executor.put` made of them."""

_KEPT = prefixes(STATE, GATHERED, WEIGHT)  # slots of what is there after a run
_SMALL, _REMEMBERED = 512, 1 << 10  # bytes of an array that is put but once, and of how many that is known


class State:
    """What one generation carries from call to call, on the device. Continuing it uses it up."""

    def __init__(self, entry: Entry, buffers: dict[str, Buffer], rows: int) -> None:
        self.entry = entry
        self.rows = rows
        self._buffers: dict[str, Buffer] | None = buffers

    def take(self) -> dict[str, Buffer]:
        """The buffers by slot, once: the call that continues the state reuses their memory."""
        held, self._buffers = self.peek(), None
        return held

    def peek(self) -> dict[str, Buffer]:
        """The buffers by slot, to be read and left as they are."""
        if self._buffers is None:
            raise InputError("state: it was continued by an earlier call; pass the state which that call gave")
        return self._buffers


class Executor:
    """Loaded programs and placed weights of one bundle on one device, or on a mesh of them."""

    def __init__(
        self,
        bundle: Bundle,
        policy: Policy,
        place: Place = entries.ONE_DEVICE,
        *,
        client: Client | None = None,
        views: tuple[memoryview, ...] | None = None,
    ) -> None:
        views = views or placing.map_weights(bundle)  # whose pages come while the client starts
        self._place = place
        self.client = client or opening.open_for(bundle, place, compiling=False)
        self.executables = Executables(bundle, self.client, policy)
        self._weights = placing.place_weights(bundle, views, self.client, entries.weight_layout(bundle.index, place))
        self._put_once = _once(self.client)
        self.blank = lru_cache(self.client.zeros)
        """Zeros for an argument that is not donated, made once."""
        self._prepared: dict[tuple[str, str], _Prepared] = {}

    def run(
        self, entry: Entry, inputs: Inputs, state: State | None = None, source: State | None = None
    ) -> tuple[dict[str, "np.ndarray[Any, Any]"], dict[str, Buffer]]:
        """Outputs by name, and the state's buffers by slot. Inputs have the entry's exact shapes.

        Raises MachineError where XLA fails on this machine.
        """
        try:
            with switching.often():
                return self._run(entry, inputs, state, source)
        except RuntimeError as error:  # jaxlib's own are of this kind
            cause = str(error).partition("\n")[0]
            raise MachineError(
                f"entry {entry.combo_key[:12]}… {entry.phase}: XLA fails here: {cause}; {_advice()}"
            ) from error

    def _run(
        self, entry: Entry, inputs: Inputs, state: State | None, source: State | None
    ) -> tuple[dict[str, "np.ndarray[Any, Any]"], dict[str, Buffer]]:
        self.prepare(entry)
        prepared = self._of(entry)
        slots = self._start(prepared, inputs, state, source)
        if not prepared.gathered <= slots.keys():
            slots |= self._run(self._gather(entry), {}, None, None)[1]
        begin, end = (0, 0) if entry.repeat is None else (entry.repeat.begin, entry.repeat.end)
        self._call(prepared.calls[:begin], slots)
        made = {} if entry.repeat is None else self._turns(prepared.calls[begin:end], entry.repeat, slots)
        self._call(prepared.calls[end:], slots)
        outputs = {n: made[slot] if slot in made else self.client.read(slots[slot]) for n, slot in prepared.outputs}
        for slot in prepared.passing:
            slots.pop(slot, None)
        return outputs, slots

    def _call(self, calls: Iterable["_Call"], slots: dict[str, Buffer]) -> None:
        for call in calls:
            results = self.executables.of(call.program)(call.arguments(slots))
            slots.update(zip(call.gives, results, strict=True))

    def _turns(
        self, calls: tuple["_Call", ...], repeat: RepeatRecord, slots: dict[str, Buffer]
    ) -> dict[str, "np.ndarray[Any, Any]"]:
        """Makes the calls again and again; gives the outputs of all turns, and how many there were.

        A turn costs what its calls cost: executables, weights and what no turn changes are looked up before.
        """
        read, given = self.client.read, {slot for call in calls for slot in call.gives}
        turn = [(self.executables.of(call.program), *call.bound(slots, given), call.gives) for call in calls]
        pieces: dict[str, list[Buffer]] = {slot: [] for slot in repeat.stacked}
        missing, count = {slot: slots[slot] for slot in repeat.stacked}, 0
        while count < repeat.most and read(slots[repeat.slot]):
            for run, arguments, moving, gives in turn:
                for place, slot in moving:
                    arguments[place] = slots[slot]
                slots.update(zip(gives, run(arguments), strict=True))
            for slot, taken in pieces.items():
                taken.append(slots[slot])
            count += 1
        made = {slot: [*taken, *[missing[slot]] * (repeat.most - count)] for slot, taken in pieces.items()}
        stacked = {slot: np.stack([read(piece) for piece in each], axis=1) for slot, each in made.items()}
        return {**stacked, repeat.count: np.array(count, np.int32)}

    def prepare(self, entry: Entry) -> None:
        """Has the executables of an entry loaded in the order of its calls, while other things are done."""
        if (entry.combo_key, entry.phase) not in self._prepared:
            self.executables.ahead([call.program for call in self._of(entry).calls])

    def put(self, inputs: HostArrays) -> Inputs:
        """Inputs on the device, for calls that have them in common."""
        if self._place.mesh:
            return inputs  # which entries may want laid out differently
        return {name: self._placed(array) for name, array in inputs.items()}

    def _gather(self, entry: Entry) -> Entry:
        """The entry that gathers the weights which an entry takes."""
        index = entry.index
        found = next(r for r in index.entries if (r.phase, index.combos[r.combo].key) == (GATHER, entry.combo_key))
        return replace(entry, phase=GATHER, chains=found.chains)

    def _of(self, entry: Entry) -> "_Prepared":
        name = entry.combo_key, entry.phase
        if name not in self._prepared:
            self._prepared[name] = _Prepared.of(entry, self._weights)
        return self._prepared[name]

    def held(self, state: State) -> "np.ndarray[Any, Any] | None":
        """How many tokens each row of a language model's state holds; None where another process has some rows."""
        buffer = state.peek().get(STATE.slot("lengths"))
        if buffer is None or not getattr(buffer, "is_fully_addressable", True):
            return None
        return np.array(self.client.read(buffer))  # a view would keep its memory from being used again

    def _start(
        self, prepared: "_Prepared", inputs: Inputs, state: State | None, source: State | None
    ) -> dict[str, Buffer]:
        slots = {} if state is None else state.take()
        for name, value in inputs.items():
            if type(value) is np.ndarray:
                value = self._placed(value, prepared.axes.get(name, ()), name in prepared.donated)
            slots[INPUT.slot(name)] = value
        if source is not None:
            read = source.peek()
            slots |= {slot: buffer for slot, buffer in read.items() if not STATE.holds(slot)}  # what was gathered
            slots |= SOURCE.slots(STATE.paths(read))
        for slot, argument in prepared.carried:
            if slot not in slots:
                slots[slot] = self.client.zeros(argument)
        return slots

    def _placed(self, array: "np.ndarray[Any, Any]", axes: Axes = (), donated: bool = False) -> Buffer:
        if donated or array.nbytes > _SMALL:
            return self.client.put(array, axes)
        return self._put_once(array.tobytes(), array.dtype, array.shape, axes)


def _advice() -> str:
    if isa.cpuinfo_is_hidden():
        return "its kernels read /proc/cpuinfo, which is hidden here; show it to this process, or run it elsewhere"
    return "run it elsewhere, or report it"


def _once(client: Client) -> Callable[[bytes, "np.dtype[Any]", tuple[int, ...], Axes], Buffer]:
    """Puts an array, or gives that which it made of one like it lately.

    To put and to free one costs eight microseconds, and what says how to draw tokens stays the same for many calls.
    """

    @lru_cache(_REMEMBERED)
    def put(data: bytes, dtype: "np.dtype[Any]", shape: tuple[int, ...], axes: Axes) -> Buffer:
        return client.put(np.ndarray(shape, dtype, data), axes)

    return put


@dataclass(frozen=True)
class _Call:
    """A program with its weights in their places; the other arguments come by slot."""

    program: ProgramRecord
    template: tuple[Buffer | None, ...]
    takes: tuple[tuple[int, str], ...]
    gives: tuple[str, ...]

    def arguments(self, slots: Mapping[str, Buffer]) -> list[Buffer]:
        """All arguments in the contract's order."""
        filled = list(self.template)
        for place, slot in self.takes:
            filled[place] = slots[slot]
        return filled

    def bound(self, slots: Mapping[str, Buffer], given: Set[str]) -> tuple[list[Buffer], list[tuple[int, str]]]:
        """All arguments but those in given slots, and the places of these."""
        filled = list(self.template)
        for place, slot in self.takes:
            if slot not in given:
                filled[place] = slots[slot]
        return filled, [(place, slot) for place, slot in self.takes if slot in given]


@dataclass(frozen=True)
class _Prepared:
    """What running an entry takes, looked up once: dispatching a call must cost microseconds."""

    calls: tuple[_Call, ...]
    outputs: tuple[tuple[str, str], ...]
    """Name and slot."""
    passing: tuple[str, ...]
    """Slots of all that is not carried on."""
    carried: tuple[tuple[str, ArgumentRecord], ...]
    """Slots of state that must be there before, with the argument that takes them."""
    axes: Mapping[str, Axes]
    """How each input lies on the mesh."""
    gathered: frozenset[str]
    """Slots of gathered weights, which must be there before."""
    donated: frozenset[str]
    """What a call uses up."""

    @classmethod
    def of(cls, entry: Entry, weights: Mapping[str, Buffer]) -> "_Prepared":
        calls = tuple(_call(program, binding, weights) for program, binding in entry.calls)
        outputs = tuple((name, OUTPUT.slot(name)) for name in entry.index.phases[entry.phase].outputs)
        named = [slot for _, binding in entry.calls for slot in (*binding.takes, *binding.gives)]
        passing = tuple(slot for slot in dict.fromkeys(named) if not slot.startswith(_KEPT))
        carried = tuple((slot, argument) for slot, argument in entry.taken.items() if STATE.holds(slot))
        axes = {name: argument.sharding for name, argument in entry.inputs.items()}
        gathered = frozenset(slot for slot in entry.taken if GATHERED.holds(slot))
        pairs = (
            pair for program, binding in entry.calls for pair in zip(binding.takes, program.arguments, strict=True)
        )
        donated = frozenset(slot_of(slot).path for slot, argument in pairs if argument.donated and INPUT.holds(slot))
        return cls(calls, outputs, passing, carried, axes, gathered, donated)


def _call(program: ProgramRecord, binding: BindingRecord, weights: Mapping[str, Buffer]) -> _Call:
    template = tuple(weights.get(slot) for slot in binding.takes)
    takes = tuple((place, slot) for place, slot in enumerate(binding.takes) if slot not in weights)
    return _Call(program, template, takes, binding.gives)


def checked_inputs(entry: Entry, inputs: HostArrays) -> dict[str, "np.ndarray[Any, Any]"]:
    """Inputs in the entry's dtypes. Raises InputError for a missing, surplus or wrongly shaped one."""
    check_names(entry, inputs.keys())
    return {name: _fitting(inputs[name], argument, entry, name) for name, argument in entry.inputs.items()}


def check_names(entry: Entry, given: Set[str], held: Set[str] = frozenset()) -> None:
    """Raises InputError unless those are given that an entry takes, but for those that are held already."""
    wanted = entry.inputs.keys() - held
    if odd := sorted(wanted ^ given):
        raise InputError(
            f"phase {entry.phase}: takes the inputs {', '.join(sorted(wanted))}; missing or unknown: {', '.join(odd)}"
        )


def _fitting(value: Any, argument: ArgumentRecord, entry: Entry, name: str) -> "np.ndarray[Any, Any]":
    array = cast_input(np.asarray(value), numpy_dtype(argument.dtype), entry.phase, name)
    if array.shape != argument.shape:
        raise InputError(
            f"phase {entry.phase}: input {name} has shape {array.shape}, this entry takes {argument.shape}"
        )
    return array


def cast_input(array: "np.ndarray[Any, Any]", wanted: "np.dtype[Any]", phase: str, name: str) -> "np.ndarray[Any, Any]":
    """An input in a dtype that holds it: integers stay the same, floats may be rounded. Else raises InputError."""
    if array.dtype == wanted:
        return array
    place, whole = f"phase {phase}: input {name}", "iu"
    if not np.can_cast(array.dtype, wanted, "same_kind") and not (array.dtype.kind in whole and wanted.kind in whole):
        raise InputError(f"{place} is {array.dtype}, the program takes {wanted}")
    with np.errstate(over="ignore"):  # which is an error
        made = array.astype(wanted)
    holds = np.array_equal(made, array) if wanted.kind in whole else not (np.isinf(made) & np.isfinite(array)).any()
    if not holds:
        raise InputError(f"{place} has a value beyond {wanted}")
    return made
