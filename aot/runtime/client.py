"""The device as the runtime sees it: places arrays, loads executables, runs them.

Two implementations stand behind it: `jaxlib_client`, which needs no jax and is ready in a tenth of a second, and
`jax_client`, which imports jax, and can compile.
"""

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import ml_dtypes  # registers bfloat16 with numpy
import numpy as np

from aot.bundle.bounds import Axes, Mesh
from aot.bundle.records import ArgumentRecord, ProgramRecord
from aot.errors import InputError, MachineError

if TYPE_CHECKING:
    from aot.runtime.processes import Group

log = logging.getLogger("aot")

Buffer = Any  # an array on the device
Executable = Callable[[Sequence[Buffer]], list[Buffer]]
"""A loaded executable: arrays in the contract's order in, arrays out. Donated ones are gone afterwards."""

MOST_DEVICES = 1 << 12
"""Devices that a mesh or a process can have: XLA makes as many virtual ones as it is asked for, at once."""

VARIABLE = "AOT_CLIENT"
"""Environment variable that names the implementation to use: jaxlib or jax."""

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Place(NamedTuple):
    """Where a bundle runs: a platform, and a mesh of its devices, empty for one of them."""

    platform: str
    mesh: Mesh = ()


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


def open(place: Place, *, compiling: bool, ids: Sequence[int] = (), group: "Group | None" = None) -> Client:
    """The client for a place: without jax for one device, where nothing is to be compiled and jaxlib is known to us.

    `ids` are the devices to take; `group` the processes that the mesh spans. Raises InputError for an unknown name in
    the environment, MachineError where devices lack.
    """
    _check_ids(ids)
    if place.mesh:
        _heed_flags()
        from aot.runtime import mesh_client

        return mesh_client.Client(place.platform, place.mesh, ids, group)
    return each(place.platform, ids or (0,), compiling=compiling)[0]


def each(platform: str, ids: Sequence[int], *, compiling: bool) -> "list[Client]":
    """A client for each of some devices of this process. Raises as `open`."""
    _check_ids(ids)
    asked = os.environ.get(VARIABLE) or "jaxlib"
    if asked not in ("jaxlib", "jax"):
        raise InputError(f"{VARIABLE}: must be jaxlib or jax, got {asked!r}")
    _heed_flags()
    if asked == "jaxlib" and platform == "cpu" and not compiling:
        from aot.runtime import jaxlib_client

        try:
            return list(jaxlib_client.clients(ids))
        except jaxlib_client.UnknownError as unknown:
            log.warning("taking the slower way through jax: %s", unknown)
    from aot.runtime import jax_client

    return [jax_client.Client(device) for device in jax_client.devices(platform, max(ids) + 1, ids)]


def _check_ids(ids: Sequence[int]) -> None:
    if max(ids, default=0) >= MOST_DEVICES:
        raise MachineError(f"devices: no process has one of the id {max(ids)}, they are below {MOST_DEVICES}")


def count(platform: str) -> int:
    """How many devices of a platform this process has."""
    _heed_flags()
    if "jax" in sys.modules or platform != "cpu":
        from aot.runtime import jax_client

        return len(jax_client.devices(platform, 1))
    from aot.runtime import jaxlib_client

    return jaxlib_client.count()


def _heed_flags() -> None:
    if "XLA_FLAGS" in os.environ:
        from aot.runtime import flags

        flags.settle()


def loaded(backend: Any, data: bytes, devices: Sequence[Any], program: ProgramRecord) -> Any:
    """Stored bytes of an executable, loaded on some devices of a backend. Raises MachineError for what it refuses."""
    from jaxlib import xla_client

    listed, options = xla_client.DeviceList(tuple(devices)), _options_for(devices)
    try:
        return backend.deserialize_executable(data, executable_devices=listed, compile_options=options)
    except Exception as error:  # jaxlib raises several types of its own
        cause = str(error).partition("\n")[0]
        raise MachineError(f"program {program.name}: its executable does not load here: {cause}; rebuild it") from error


def run(loaded: Any, arguments: Sequence[Buffer], program: ProgramRecord) -> Any:
    """The raw results of a loaded executable. Raises MachineError for what XLA reports: other arrays, no memory."""
    try:
        return loaded.execute_sharded(arguments)
    except RuntimeError as error:  # jaxlib's own is one
        cause = " ".join(str(error).split())
        raise MachineError(f"program {program.name}: XLA does not run it: {cause[:200]}; verify the bundle") from error


def zeros(record: ArgumentRecord) -> "np.ndarray[Any, Any]":
    """Host zeros for an argument. Raises MachineError where there is no memory for them."""
    try:
        return np.zeros(record.shape, dtype(record.dtype))
    except MemoryError as error:
        shape = list(record.shape)
        raise MachineError(f"{record.name}: no memory for {shape} of {record.dtype}; use a smaller bucket") from error


def _options_for(devices: Sequence[Any]) -> Any:
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


def handler(aval: Any, sharding: Any) -> Any:
    """What makes a committed array of a raw result, and skips the checks of what we know to be so."""
    from jaxlib import _jax

    make = _jax.array_result_handler
    return make(aval, sharding, True, True) if _checks(make) else make(aval, sharding, True)


@cache
def _checks(make: Any) -> bool:
    """Whether jaxlib checks results unless it is told to skip that: up to 0.11.1 it does, and says so."""
    return "_skip_checks" in str(make.__doc__)


def collect() -> None:
    """Has jaxlib let go of host arrays that no device uses any more; by itself it waits for its next occasion."""
    from jaxlib import _jax

    if hasattr(_jax, "collect_garbage"):  # a private name
        _jax.collect_garbage()


def dtype(name: str) -> "np.dtype[Any]":
    """The numpy dtype of a record's name, bfloat16 included."""
    return _DTYPES.get(name) or np.dtype(name)


class _Compilations(MetaPathFinder):
    """Counts the backend compiles of the process, which jax alone can cause: it listens as soon as jax is imported."""

    def __init__(self) -> None:
        self.count = 0
        if "jax" in sys.modules:
            self._listen(importlib.import_module("jax.monitoring"))
        else:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        """Nothing, but for jax's own monitoring a loader that has us listen from its first moment."""
        if name != "jax.monitoring":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self._listen(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def _listen(self, monitoring: Any) -> None:
        monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration: float, **_: Any) -> None:
        self.count += event == _COMPILE_EVENT


_compilations = _Compilations()


def compilations() -> int:
    """Backend compiles of this process since `aot.runtime.client` was imported."""
    return _compilations.count
