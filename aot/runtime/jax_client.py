"""The device through jax: slower to start, and the only way to compile."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxlib import xla_client

from aot.bundle.records import ArgumentRecord, Axes, ProgramRecord
from aot.runtime import client
from aot.runtime.client import Buffer, Executable


class Client:
    """One device of this process, by jax's own backend."""

    def __init__(self, platform: str = "cpu") -> None:
        self.platform = platform
        self._device = jax.devices(platform)[0]

    def put(self, array: "np.ndarray[Any, Any]", axes: Axes = ()) -> Buffer:
        return jax.device_put(array, self._device)

    def zeros(self, record: ArgumentRecord) -> Buffer:
        return self.put(np.zeros(record.shape, client.dtype(record.dtype)))

    def read(self, buffer: Buffer) -> "np.ndarray[Any, Any]":
        return np.asarray(buffer)

    def load(self, data: bytes, program: ProgramRecord) -> Executable:
        devices = xla_client.DeviceList((self._device,))
        try:
            loaded = self._device.client.deserialize_executable(data, executable_devices=devices)
        except Exception as error:  # jaxlib raises several types of its own
            raise client.refused(program, error) from error
        return _callable(loaded)

    def compile(self, data: bytes, program: ProgramRecord) -> Executable:
        from jax import export

        exported = export.deserialize(bytearray(data))
        here = jax.sharding.SingleDeviceSharding(self._device)
        specs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=here) for aval in exported.in_avals]
        arguments, _ = jax.tree.unflatten(exported.in_tree, specs)
        # `Exported.call` drops donation: it has to be asked for again, for the first argument as when it was exported.
        jitted = jax.jit(exported.call, donate_argnums=0, keep_unused=True)
        return _callable(jitted.lower(*arguments).compile().runtime_executable())


def _callable(loaded: Any) -> Executable:
    def run(arguments: Sequence[Buffer]) -> list[Buffer]:
        results = loaded.execute_sharded(list(arguments)).disassemble_into_single_device_arrays()
        return [shards[0] for shards in results]

    return run
