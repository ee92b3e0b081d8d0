"""The device as the runtime sees it: places arrays, loads executables, runs them. Opened by `opening`."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import ml_dtypes  # registers bfloat16 with numpy
import numpy as np

from aot.bundle.index.bounds import Axes
from aot.bundle.index.records import ArgumentRecord, ProgramRecord
from aot.errors import MachineError

if TYPE_CHECKING:
    from jaxlib import _jax, xla_client

Buffer = Any  # an array on the device
Executable = Callable[[Sequence[Buffer]], list[Buffer]]
"""A loaded executable: arrays in the contract's order in, arrays out. Donated ones are gone afterwards."""

MOST_DEVICES = 1 << 12
"""Devices that a mesh or a process can have: XLA makes as many virtual ones as it is asked for, at once."""

_DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Client(Protocol):
    """One device of this process, or those of a mesh."""

    def put(self, array: "np.ndarray[Any, Any]", axes: Axes = ()) -> Buffer:
        """A host array on the device, or laid over those of a mesh.

        On CPU it stays in place where its memory allows, so it must not change afterwards.
        """

    def zeros(self, record: ArgumentRecord) -> Buffer:
        """An array of zeros as the contract describes it."""

    def read(self, buffer: Buffer) -> "np.ndarray[Any, Any]":
        """An array of the device on the host, once it is computed; on CPU in place, and so read-only."""

    def load(self, data: bytes, program: ProgramRecord) -> Executable:
        """Stored bytes of an executable, made ready to run; the caller has checked their digest.

        Raises MachineError where the compiler's loader refuses them.
        """

    def compile(self, data: bytes, program: ProgramRecord) -> Executable:
        """A stored program, compiled here and now."""


def load_executable(
    backend: "_jax.Client", data: bytes, devices: Sequence["_jax.Device"], program: ProgramRecord
) -> "_jax.LoadedExecutable":
    """Stored bytes of an executable, loaded on some devices of a backend. Raises MachineError for what it refuses."""
    from jaxlib import xla_client

    listed, options = xla_client.DeviceList(tuple(devices)), _options_for(devices)
    try:
        return backend.deserialize_executable(data, executable_devices=listed, compile_options=options)
    except Exception as error:  # jaxlib raises several types of its own
        cause = str(error).partition("\n")[0]
        raise MachineError(f"program {program.name}: its executable does not load here: {cause}; rebuild it") from error


def run_loaded(
    loaded: "_jax.LoadedExecutable", arguments: Sequence[Buffer], program: ProgramRecord
) -> "_jax.ExecuteResults":
    """The raw results of a loaded executable. Raises MachineError for what XLA reports: other arrays, no memory."""
    try:
        return loaded.execute_sharded(arguments)
    except RuntimeError as error:  # jaxlib's own is one
        cause = " ".join(str(error).split())
        raise MachineError(f"program {program.name}: XLA does not run it: {cause[:200]}; verify the bundle") from error


def host_zeros(record: ArgumentRecord) -> "np.ndarray[Any, Any]":
    """Host zeros for an argument. Raises MachineError where there is no memory for them."""
    try:
        return np.zeros(record.shape, numpy_dtype(record.dtype))
    except MemoryError as error:
        shape = list(record.shape)
        raise MachineError(f"{record.name}: no memory for {shape} of {record.dtype}; use a smaller bucket") from error


def _options_for(devices: Sequence["_jax.Device"]) -> "xla_client.CompileOptions | None":
    """How an executable is loaded for these devices; None for those by whose ids it was built, the first ones."""
    from jaxlib import xla_client

    ids = [device.id for device in devices]
    if ids == list(range(len(ids))):
        return None
    options = xla_client.CompileOptions()
    build = options.executable_build_options
    build.num_replicas, build.num_partitions = 1, len(ids)
    build.device_assignment = xla_client.DeviceAssignment.create(np.array([ids]))
    return options


def result_handler(aval: object, sharding: object) -> "_jax.ResultHandler":
    """What makes a committed array of a raw result, and skips the checks of what we know to be so."""
    from jaxlib import _jax

    make = _jax.array_result_handler
    return make(aval, sharding, True, True) if _checks(make) else make(aval, sharding, True)


@cache
def _checks(make: Any) -> bool:
    """Whether jaxlib checks results unless it is told to skip that: up to 0.11.1 it does, and says so."""
    return "_skip_checks" in str(make.__doc__)


def free_unused_arrays() -> None:
    """Has jaxlib let go of host arrays that no device uses any more; by itself it waits for its next occasion."""
    from jaxlib import _jax

    if hasattr(_jax, "collect_garbage"):  # a private name
        _jax.collect_garbage()


def numpy_dtype(name: str) -> "np.dtype[Any]":
    """The numpy dtype of a record's name, bfloat16 included."""
    return _DTYPES.get(name) or np.dtype(name)
