"""Entries without the runtime around them: their executables, called on arguments that lie ready."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aot.bundle.index.records import BindingRecord, Index, ProgramRecord
from aot.bundle.store import Bundle
from aot.runtime.device import opening, placing
from aot.runtime.device.client import Buffer, numpy_dtype
from aot.runtime.executables import Executables
from aot.runtime.fitting import entries
from aot.runtime.fitting.entries import Entry
from aot.slots import INPUT, SOURCE, STATE, WEIGHT, prefixes, slot_of

BufferSlots = dict[str, Buffer]


class Timing(NamedTuple):
    """A call and what it took until its results were there."""

    program: ProgramRecord
    seconds: float


class Bare:
    """A bundle's weights and executables, loaded apart from any model."""

    def __init__(self, bundle: Bundle) -> None:
        place = entries.find_place(bundle.index)
        self._client = opening.open_client(place, compiling=False)
        self._executables = Executables(bundle, self._client, "strict")
        self._weights = placing.place_weights(
            bundle, placing.map_weights(bundle), self._client, entries.weight_layout(bundle.index, place)
        )

    def load(self, program: ProgramRecord) -> float:
        """Seconds that it takes to make a program ready, read and checked; next to nothing where it is already."""
        before = time.perf_counter()
        self._executables.of(program)
        return time.perf_counter() - before

    def begin(
        self, entry: Entry, inputs: Mapping[str, "np.ndarray[Any, Any]"], before: Mapping[str, Buffer] | None = None
    ) -> BufferSlots:
        """All that an entry takes, but for weights: inputs, and the state of what ran before or else zeros."""
        given = prefixes(STATE, SOURCE)
        slots = {slot: self._client.zeros(a) for slot, a in entry.taken.items() if slot.startswith(given)}
        slots |= {slot: buffer for slot, buffer in (before or {}).items() if STATE.holds(slot)}
        axes = {name: argument.sharding for name, argument in entry.inputs.items()}
        return slots | INPUT.slots({name: self._client.put(array, axes[name]) for name, array in inputs.items()})

    def run(self, entry: Entry, slots: BufferSlots) -> list[Timing]:
        """Calls the entry's executables in order, each when the one before is done; what they give goes to the slots.

        Timed are the calls, the wait for their results, and letting go of those that they replace.
        """
        if (repeat := entry.repeat) is None:
            return self._run(entry.calls, slots)
        timings = self._run(entry.calls[: repeat.begin], slots)
        for _ in range(repeat.most):
            if not self._client.read(slots[repeat.slot]):
                break
            timings += self._run(entry.calls[repeat.begin : repeat.end], slots)
        return timings + self._run(entry.calls[repeat.end :], slots)

    def _run(self, calls: Sequence[tuple[ProgramRecord, BindingRecord]], slots: BufferSlots) -> list[Timing]:
        timings = []
        for program, binding in calls:
            executable = self._executables.of(program)
            arguments = [slots[slot] if slot in slots else self._weights[slot] for slot in binding.takes]
            before = time.perf_counter()
            results = executable(arguments)
            for result in results[-1:]:  # all become ready at once
                result.block_until_ready()
            arguments.clear()
            slots.update(zip(binding.gives, results, strict=True))  # lets go of what was donated
            timings.append(Timing(program, time.perf_counter() - before))
        return timings


def find_entry(index: Index, combo_key: str, phase: str) -> Entry:
    """The entry of a combo's key and a phase, which there is, where `aot.load` runs it."""
    return next(
        e for e in entries.entries_of(index, entries.find_place(index)) if (e.combo_key, e.phase) == (combo_key, phase)
    )


def step_weight_bytes(index: Index, combo_key: str) -> int:
    """Bytes of the weights that a decode step of a combo takes."""
    taken = [slot for slot in find_entry(index, combo_key, "decode").taken if WEIGHT.holds(slot)]
    arrays = [index.weights.arrays[slot_of(slot).path] for slot in taken]
    return sum(int(np.prod(array.shape, dtype=np.int64)) * numpy_dtype(array.dtype).itemsize for array in arrays)
