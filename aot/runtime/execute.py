"""Runs entries: slots in, calls in order, slots out. Knows nothing of what a model is."""

import logging
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from aot.bundle.records import ProgramRecord
from aot.bundle.store import Bundle
from aot.errors import InputError, MachineError
from aot.runtime import entries, expiry, placing
from aot.runtime.client import Buffer, Client, Executable, dtype
from aot.runtime.entries import Entry

log = logging.getLogger("aot")

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


class State:
    """What one generation carries from call to call, on the device. Continuing it uses it up."""

    def __init__(self, entry: Entry, buffers: dict[str, Buffer], rows: int) -> None:
        self.entry = entry
        self.rows = rows
        self._buffers: dict[str, Buffer] | None = buffers

    def take(self) -> dict[str, Buffer]:
        """The buffers by path, once: the call that continues the state reuses their memory."""
        held, self._buffers = self.peek(), None
        return held

    def peek(self) -> dict[str, Buffer]:
        """The buffers by path, to be read and left as they are."""
        if self._buffers is None:
            raise InputError("state: it was continued by an earlier call; pass the state which that call gave")
        return self._buffers


class Executor:
    """Loaded programs and placed weights of one bundle on one device."""

    def __init__(self, bundle: Bundle, client: Client, policy: str) -> None:
        self._bundle, self._client, self._policy = bundle, client, policy
        self._weights = placing.weights(bundle, client)
        self._executables: dict[str, Executable] = {}
        self._lock = threading.Lock()

    def run(
        self, entry: Entry, inputs: Arrays, state: State | None = None, source: State | None = None
    ) -> tuple[dict[str, "np.ndarray[Any, Any]"], dict[str, Buffer]]:
        """Outputs by name, and the state's buffers by path. Inputs have the entry's exact shapes."""
        slots = self._start(entry, inputs, state, source)
        for program, binding in entry.calls:
            executable = self.executable(program)
            arguments = [slots[slot] if slot in slots else self._weights[slot] for slot in binding.takes]
            slots.update(zip(binding.gives, executable(arguments), strict=True))
        outputs = {name: np.asarray(slots[f"output/{name}"]) for name in entry.index.phases[entry.phase].outputs}
        return outputs, _under(slots, "state/")

    def executable(self, program: ProgramRecord) -> Executable:
        """The program, ready to run; loaded at its first use.

        Where no executable fits this machine, raises ExpiredError for an expired program, and MachineError for
        another if the policy does not allow compiling.
        """
        with self._lock:
            if program.digest not in self._executables:
                self._executables[program.digest] = self._made(program)
            return self._executables[program.digest]

    def _made(self, program: ProgramRecord) -> Executable:
        record = entries.fitting(program)
        if record is not None:
            return self._client.load(self._bundle.read(record.digest, record.bytes), program)
        cause = entries.misfit(program)
        expiry.check(self._bundle, f"program {program.name}: {cause}")
        if self._policy != "compile":
            raise MachineError(
                f"bundle {self._bundle.path}: no executable for this machine: program {program.name}: {cause}; "
                "rebuild for this target, or load with policy='compile'"
            )
        log.warning("compiling program %s (%s): %s", program.name, program.digest, cause)
        return self._client.compile(self._bundle.read(program.digest, program.bytes))

    def _start(self, entry: Entry, inputs: Arrays, state: State | None, source: State | None) -> dict[str, Buffer]:
        slots = {f"input/{name}": self._client.put(array) for name, array in inputs.items()}
        if source is not None:
            slots |= {f"source/{path}": buffer for path, buffer in source.peek().items()}
        if state is not None:
            slots |= {f"state/{path}": buffer for path, buffer in state.take().items()}
        for slot, argument in entry.taken.items():
            if slot not in slots and slot.startswith("state/"):
                slots[slot] = self._client.zeros(argument)
        return slots


def checked(entry: Entry, inputs: Arrays) -> dict[str, "np.ndarray[Any, Any]"]:
    """Inputs in the entry's dtypes. Raises InputError for a missing, surplus or wrongly shaped one."""
    wanted = {slot.removeprefix("input/"): a for slot, a in entry.taken.items() if slot.startswith("input/")}
    if odd := sorted(set(wanted) ^ set(inputs)):
        raise InputError(
            f"phase {entry.phase}: takes the inputs {', '.join(sorted(wanted))}; missing or unknown: {', '.join(odd)}"
        )
    made = {}
    for name, argument in wanted.items():
        array = _cast(inputs[name], dtype(argument.dtype), f"phase {entry.phase}: input {name}")
        if array.shape != argument.shape:
            raise InputError(
                f"phase {entry.phase}: input {name} has shape {array.shape}, this entry takes {argument.shape}"
            )
        made[name] = np.ascontiguousarray(array)
    return made


def _cast(value: Any, wanted: "np.dtype[Any]", place: str) -> "np.ndarray[Any, Any]":
    """The value in a dtype that holds it: integers stay the same, floats may be rounded."""
    array, whole = np.asarray(value), "iu"
    if not np.can_cast(array.dtype, wanted, "same_kind") and not (array.dtype.kind in whole and wanted.kind in whole):
        raise InputError(f"{place} is {array.dtype}, the program takes {wanted}")
    made = array.astype(wanted)
    if wanted.kind in whole and not np.array_equal(made, array):
        raise InputError(f"{place} has a value beyond {wanted}")
    return made


def _under(slots: Mapping[str, Buffer], prefix: str) -> dict[str, Buffer]:
    return {slot.removeprefix(prefix): buffer for slot, buffer in slots.items() if slot.startswith(prefix)}
