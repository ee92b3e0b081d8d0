"""The device through jax: slower to start, and the only way to compile."""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from aot.bundle.bounds import Axes
from aot.bundle.records import ArgumentRecord, ProgramRecord
from aot.errors import MachineError
from aot.runtime import client, exports
from aot.runtime.client import Buffer, Executable


class Client:
    """One device of this process, by jax's own backend."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def put(self, array: "np.ndarray[Any, Any]", axes: Axes = ()) -> Buffer:
        return jax.device_put(array, self._device)

    def zeros(self, record: ArgumentRecord) -> Buffer:
        return self.put(client.zeros(record))

    def read(self, buffer: Buffer) -> "np.ndarray[Any, Any]":
        return np.asarray(buffer)

    def load(self, data: bytes, program: ProgramRecord) -> Executable:
        return _callable(client.loaded(self._device.client, data, [self._device], program), program)

    def compile(self, data: bytes, program: ProgramRecord) -> Executable:
        here = jax.sharding.SingleDeviceSharding(self._device)
        return _callable(compiled(data, lambda exported: [here] * len(exported.in_avals)), program)


def compiled(data: bytes, lay: exports.Lay) -> Any:
    """A stored program, compiled for arguments that lie as is said."""
    return exports.lowered(data, lay).compile().runtime_executable()


def devices(platform: str, needed: int, ids: Sequence[int] = ()) -> list[Any]:
    """Devices of this process: those of the ids, else all; on CPU at least as many as are needed, if jax has not begun.

    Raises MachineError where they are fewer, or one has no such id.
    """
    if platform == "cpu" and needed > 1:
        with contextlib.suppress(RuntimeError):  # jax has begun, with as many as it was told
            jax.config.update("jax_num_cpu_devices", needed)
    try:
        found = {device.id: device for device in jax.local_devices(backend=platform)}
    except RuntimeError as error:
        cause = str(error).partition("\n")[0]
        raise MachineError(f"devices: this machine has none of {platform} ({cause}); load it elsewhere") from error
    if missing := [id for id in ids if id not in found]:
        there = ", ".join(map(str, found))
        raise MachineError(f"devices: no {platform} device has the id {missing[0]}, there are {there}; give others")
    chosen = [found[id] for id in ids] or list(found.values())
    if len(chosen) < needed and not ids:
        hint = "load it before jax begins, or set jax_num_cpu_devices" if platform == "cpu" else "load it elsewhere"
        raise MachineError(f"devices: {needed} of {platform} are needed, this process has {len(chosen)}; {hint}")
    return chosen


def _callable(loaded: Any, program: ProgramRecord) -> Executable:
    def run(arguments: Sequence[Buffer]) -> list[Buffer]:
        results = client.run(loaded, list(arguments), program).disassemble_into_single_device_arrays()
        return [shards[0] for shards in results]

    return run
