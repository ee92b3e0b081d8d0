"""The device as the runtime sees it: places arrays, loads executables, runs them. All of jax and jaxlib is in here."""

import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.monitoring
import ml_dtypes  # registers bfloat16 with numpy
import numpy as np
from jaxlib import xla_client

from aot.bundle.records import ArgumentRecord, ProgramRecord
from aot.errors import MachineError

Buffer = Any  # an array on the device

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


class _Compilations:
    """Counts the backend compiles of the process from the time it is first asked for."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration: float, **_: Any) -> None:
        self.count += event == _COMPILE_EVENT


_compilations = _Compilations()


def compilations() -> int:
    """Backend compiles of this process since `aot.runtime.client` was imported."""
    return _compilations.count


def dtype(name: str) -> "np.dtype[Any]":
    """The numpy dtype of a record's name, bfloat16 included."""
    return _DTYPES.get(name) or np.dtype(name)


class Executable:
    """A loaded executable: arrays in the contract's order in, arrays out. Donated ones are gone afterwards."""

    def __init__(self, loaded: Any) -> None:
        self._loaded = loaded

    def __call__(self, arguments: Sequence[Buffer]) -> list[Buffer]:
        results = self._loaded.execute_sharded(list(arguments)).disassemble_into_single_device_arrays()
        return [shards[0] for shards in results]


class Client:
    """One device of this process."""

    def __init__(self, platform: str = "cpu") -> None:
        self.platform = platform
        self._device = jax.devices(platform)[0]
        self._lock = threading.Lock()

    def put(self, array: "np.ndarray[Any, Any]") -> Buffer:
        """A host array on the device; on CPU in place where its memory allows."""
        return jax.device_put(array, self._device)

    def zeros(self, record: ArgumentRecord) -> Buffer:
        """An array of zeros as the contract describes it."""
        return self.put(np.zeros(record.shape, dtype(record.dtype)))

    def load(self, data: bytes, program: ProgramRecord) -> Executable:
        """Stored bytes of an executable, made ready to run; the caller has checked their digest.

        Raises MachineError where the compiler's loader refuses them.
        """
        try:
            with self._lock:
                devices = xla_client.DeviceList((self._device,))
                return Executable(self._device.client.deserialize_executable(data, executable_devices=devices))
        except Exception as error:  # jaxlib raises several types of its own
            cause = str(error).splitlines()[0]
            raise MachineError(
                f"program {program.name}: its executable does not load here: {cause}; rebuild it"
            ) from error

    def compile(self, data: bytes) -> Executable:
        """A stored program, compiled here and now."""
        from jax import export

        exported = export.deserialize(bytearray(data))
        here = jax.sharding.SingleDeviceSharding(self._device)
        specs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=here) for aval in exported.in_avals]
        arguments, _ = jax.tree.unflatten(exported.in_tree, specs)
        jitted = jax.jit(exported.call, donate_argnums=0, keep_unused=True)
        return Executable(jitted.lower(*arguments).compile().runtime_executable())
