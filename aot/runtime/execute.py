"""Runs entries: slots in, calls in order, slots out. Knows nothing of what a model is."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aot.bundle.records import ArgumentRecord, Axes, BindingRecord, ProgramRecord
from aot.bundle.store import Bundle
from aot.errors import InputError
from aot.runtime import entries, placing
from aot.runtime.client import Buffer, Client, Place, dtype
from aot.runtime.client import open as open_client
from aot.runtime.entries import Entry
from aot.runtime.executables import Executables

Arrays = Mapping[str, "np.ndarray[Any, Any]"]
Inputs = Mapping[str, Any]
"""Host arrays, or what `Executor.put` made of them."""


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
        policy: str,
        place: Place = entries.ONE_DEVICE,
        *,
        client: Client | None = None,
        views: tuple[memoryview, ...] | None = None,
    ) -> None:
        views = views or placing.maps(bundle)  # whose pages come while the client starts
        self._mesh = place.mesh
        self.client = client or open_client(place, compiling=False)
        self.executables = Executables(bundle, self.client, policy)
        self._weights = placing.weights(bundle, views, self.client, entries.layout(bundle.index, place))
        self._prepared: dict[tuple[str, str], _Prepared] = {}

    def run(
        self, entry: Entry, inputs: Inputs, state: State | None = None, source: State | None = None
    ) -> tuple[dict[str, "np.ndarray[Any, Any]"], dict[str, Buffer]]:
        """Outputs by name, and the state's buffers by slot. Inputs have the entry's exact shapes."""
        self.prepare(entry)
        prepared = self._of(entry)
        slots = self._start(prepared, inputs, state, source)
        for call in prepared.calls:
            results = self.executables.of(call.program)(call.arguments(slots))
            slots.update(zip(call.gives, results, strict=True))
        outputs = {name: self.client.read(slots[slot]) for name, slot in prepared.outputs}
        for slot in prepared.passing:
            slots.pop(slot, None)
        return outputs, slots

    def prepare(self, entry: Entry) -> None:
        """Has the executables of an entry loaded in the order of its calls, while other things are done."""
        if (entry.key, entry.phase) not in self._prepared:
            self.executables.ahead([call.program for call in self._of(entry).calls])

    def put(self, inputs: Arrays) -> Inputs:
        """Inputs on the device, for calls that have them in common."""
        if self._mesh:
            return {name: _Common(array, self.client) for name, array in inputs.items()}
        return {name: self.client.put(array) for name, array in inputs.items()}

    def _of(self, entry: Entry) -> "_Prepared":
        name = entry.key, entry.phase
        if name not in self._prepared:
            self._prepared[name] = _Prepared.of(entry, self._weights)
        return self._prepared[name]

    def _start(
        self, prepared: "_Prepared", inputs: Inputs, state: State | None, source: State | None
    ) -> dict[str, Buffer]:
        slots = {} if state is None else state.take()
        for name, value in inputs.items():
            axes = prepared.axes.get(name, ())
            if isinstance(value, _Common):
                slots[f"input/{name}"] = value.on(axes)
            else:
                slots[f"input/{name}"] = self.client.put(value, axes) if isinstance(value, np.ndarray) else value
        if source is not None:
            slots |= {f"source/{slot.removeprefix('state/')}": buffer for slot, buffer in source.peek().items()}
        for slot, argument in prepared.carried:
            if slot not in slots:
                slots[slot] = self.client.zeros(argument)
        return slots


class _Common:
    """An input that calls on a mesh have in common: put once in each layout that they take it in."""

    def __init__(self, array: "np.ndarray[Any, Any]", client: Client) -> None:
        self._array, self._client = array, client
        self._laid: dict[Axes, Buffer] = {}

    def on(self, axes: Axes) -> Buffer:
        if axes not in self._laid:
            self._laid[axes] = self._client.put(self._array, axes)
        return self._laid[axes]


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

    @classmethod
    def of(cls, entry: Entry, weights: Mapping[str, Buffer]) -> "_Prepared":
        calls = tuple(_call(program, binding, weights) for program, binding in entry.calls)
        outputs = tuple((name, f"output/{name}") for name in entry.index.phases[entry.phase].outputs)
        named = [slot for _, binding in entry.calls for slot in (*binding.takes, *binding.gives)]
        passing = tuple(slot for slot in dict.fromkeys(named) if not slot.startswith(("state/", "weight/")))
        carried = tuple((slot, argument) for slot, argument in entry.taken.items() if slot.startswith("state/"))
        axes = {name: argument.sharding for name, argument in entry.inputs.items()}
        return cls(calls, outputs, passing, carried, axes)


def _call(program: ProgramRecord, binding: BindingRecord, weights: Mapping[str, Buffer]) -> _Call:
    template = tuple(weights.get(slot) for slot in binding.takes)
    takes = tuple((place, slot) for place, slot in enumerate(binding.takes) if slot not in weights)
    return _Call(program, template, takes, binding.gives)


def checked(entry: Entry, inputs: Arrays, held: Collection[str] = ()) -> dict[str, "np.ndarray[Any, Any]"]:
    """Inputs in the entry's dtypes, beside those that are held already.

    Raises InputError for a missing, surplus or wrongly shaped one.
    """
    wanted = {name: argument for name, argument in entry.inputs.items() if name not in held}
    if odd := sorted(set(wanted) ^ set(inputs)):
        raise InputError(
            f"phase {entry.phase}: takes the inputs {', '.join(sorted(wanted))}; missing or unknown: {', '.join(odd)}"
        )
    return {name: np.ascontiguousarray(_fitting(inputs[name], a, entry, name)) for name, a in wanted.items()}


def _fitting(value: Any, argument: ArgumentRecord, entry: Entry, name: str) -> "np.ndarray[Any, Any]":
    array, wanted = np.asarray(value), dtype(argument.dtype)
    if array.dtype != wanted:
        array = _cast(array, wanted, f"phase {entry.phase}: input {name}")
    if array.shape != argument.shape:
        raise InputError(
            f"phase {entry.phase}: input {name} has shape {array.shape}, this entry takes {argument.shape}"
        )
    return array


def _cast(array: "np.ndarray[Any, Any]", wanted: "np.dtype[Any]", place: str) -> "np.ndarray[Any, Any]":
    """An array in a dtype that holds it: integers stay the same, floats may be rounded."""
    whole = "iu"
    if not np.can_cast(array.dtype, wanted, "same_kind") and not (array.dtype.kind in whole and wanted.kind in whole):
        raise InputError(f"{place} is {array.dtype}, the program takes {wanted}")
    made = array.astype(wanted)
    if wanted.kind in whole and not np.array_equal(made, array):
        raise InputError(f"{place} has a value beyond {wanted}")
    return made
