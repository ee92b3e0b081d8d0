"""The device through jax: slower to start, and the only way to compile."""

import contextlib
import os
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from aot.bundle.index.bounds import Axes
from aot.bundle.index.records import ArgumentRecord, ProgramRecord
from aot.errors import InputError, MachineError
from aot.runtime.device import client, exports
from aot.runtime.device.client import Buffer, Executable
from aot.runtime.fitting import machine

if TYPE_CHECKING:
    from jaxlib import _jax

_ACCELERATORS = {"cuda": "cuda", "gpu": "cuda", "tpu": "tpu"}
"""Platforms by jax's names."""


class JaxClient:
    """One device of this process, by jax's own backend."""

    def __init__(self, device: Any) -> None:
        self._device = device
        try:
            self.put(np.zeros(1, np.float32)).block_until_ready()
        except RuntimeError as error:  # XLA asks the system for more than it may give, as for /dev/urandom
            cause = str(error).partition("\n")[0]
            raise MachineError(f"devices: XLA fails on this machine: {cause}; load it elsewhere") from error

    def put(self, array: "np.ndarray[Any, Any]", axes: Axes = ()) -> Buffer:
        return jax.device_put(array, self._device)

    def zeros(self, record: ArgumentRecord) -> Buffer:
        return self.put(client.host_zeros(record))

    def read(self, buffer: Buffer) -> "np.ndarray[Any, Any]":
        return np.asarray(buffer)

    def load(self, data: bytes, program: ProgramRecord) -> Executable:
        return _callable(client.load_executable(self._device.client, data, [self._device], program), program)

    def compile(self, data: bytes, program: ProgramRecord) -> Executable:
        here = jax.sharding.SingleDeviceSharding(self._device)
        return _callable(compile_export(data, lambda exported: [here] * len(exported.in_avals)), program)


def compile_export(data: bytes, lay: exports.Lay) -> "_jax.LoadedExecutable":
    """A stored program, compiled for arguments that lie as is said."""
    return exports.lower_export(data, lay).compile().runtime_executable()


def find_devices(platform: str, needed: int, ids: Sequence[int] = ()) -> list[jax.Device]:
    """Devices of this process: those of the ids, else all; on CPU at least as many as are needed, if jax has not begun.

    Raises MachineError where they are fewer, or one has no such id, InputError in a child of a process that has some.
    """
    if _home() != os.getpid():
        raise InputError(
            "devices: jax began before this process was forked, and its threads are its parent's; load what needs jax "
            "in the child alone, or start it anew"
        )
    _leave_out_absent(platform)
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


def _leave_out_absent(platform: str) -> None:
    """Leaves out platforms of JAX_PLATFORMS that this machine lacks: jax would have none of the others either."""
    asked = (jax.config.jax_platforms or "").split(",")
    there = [
        name for name in asked if name not in _ACCELERATORS or machine.accelerators_of(_ACCELERATORS[name]).devices
    ]
    if there != asked:
        jax.config.update("jax_platforms", ",".join(there or [platform]))


@cache
def _home() -> int:
    """The process in which jax began for us."""
    return os.getpid()


def _callable(loaded: "_jax.LoadedExecutable", program: ProgramRecord) -> Executable:
    def run(arguments: Sequence[Buffer]) -> list[Buffer]:
        results = client.run_loaded(loaded, list(arguments), program).disassemble_into_single_device_arrays()
        return [shards[0] for shards in results]

    return run
