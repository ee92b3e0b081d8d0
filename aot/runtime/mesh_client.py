"""The devices of a mesh, through jax: every array in its parts, one for each device that has some of it."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxlib import _jax, xla_client

from aot.bundle.records import ArgumentRecord, Axes, Mesh, ProgramRecord
from aot.errors import MachineError
from aot.runtime import client
from aot.runtime.client import Buffer, Executable


class Client:
    """As many devices of a platform as a mesh has, in its order."""

    def __init__(self, platform: str, mesh: Mesh) -> None:
        self.platform = platform
        shape, names = [size for _, size in mesh], [name for name, _ in mesh]
        self._devices = _devices(platform, mesh)
        grid: Any = np.array(self._devices, object)
        self._mesh = jax.sharding.Mesh(grid.reshape(shape), names)
        self._list = xla_client.DeviceList(tuple(self._devices))

    def put(self, array: "np.ndarray[Any, Any]", axes: Axes = ()) -> Buffer:
        return jax.make_array_from_callback(array.shape, self._sharding(axes), lambda part: array[part])

    def zeros(self, record: ArgumentRecord) -> Buffer:
        sharding = self._sharding(record.sharding)
        part = np.zeros(sharding.shard_shape(record.shape), client.dtype(record.dtype))
        return jax.make_array_from_callback(record.shape, sharding, lambda _: part)

    def read(self, buffer: Buffer) -> "np.ndarray[Any, Any]":
        return np.asarray(buffer)

    def load(self, data: bytes, program: ProgramRecord) -> Executable:
        options = xla_client.CompileOptions()
        build = options.executable_build_options
        build.num_replicas, build.num_partitions = 1, len(self._devices)
        # Without it the ids of the devices that it was built on are looked for.
        ids = np.array([[device.id for device in self._devices]])
        build.device_assignment = xla_client.DeviceAssignment.create(ids)
        try:
            loaded = self._devices[0].client.deserialize_executable(
                data, executable_devices=self._list, compile_options=options
            )
        except Exception as error:  # jaxlib raises several types of its own
            raise client.refused(program, error) from error
        return self._callable(loaded, program)

    def compile(self, data: bytes, program: ProgramRecord) -> Executable:
        from jax import export

        exported = export.deserialize(bytearray(data))
        described = zip(exported.in_avals, exported.in_shardings_jax(self._mesh), strict=True)
        specs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding) for aval, sharding in described]
        arguments, _ = jax.tree.unflatten(exported.in_tree, specs)
        # `Exported.call` drops donation: it has to be asked for again, for the first argument as when it was exported.
        jitted = jax.jit(exported.call, donate_argnums=0, keep_unused=True)
        return self._callable(jitted.lower(*arguments).compile().runtime_executable(), program)

    def _callable(self, loaded: Any, program: ProgramRecord) -> Executable:
        handlers = [self._handler(result) for result in program.results]

        def run(arguments: Sequence[Buffer]) -> list[Buffer]:
            made: list[Buffer] = loaded.execute_sharded(list(arguments)).consume_with_handlers(handlers)
            return made

        return run

    def _handler(self, record: ArgumentRecord) -> Any:
        """What makes one array of the parts that the devices give."""
        aval = jax.core.ShapedArray(record.shape, client.dtype(record.dtype))
        return _jax.array_result_handler(aval, self._sharding(record.sharding), True, True)

    def _sharding(self, axes: Axes) -> jax.sharding.NamedSharding:
        return jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec(*axes))


def _devices(platform: str, mesh: Mesh) -> list[Any]:
    needed = math.prod(size for _, size in mesh)
    if platform == "cpu":
        with contextlib.suppress(RuntimeError):  # jax has begun already, with as many as it was told
            jax.config.update("jax_num_cpu_devices", needed)
    found = jax.devices(platform)
    if len(found) < needed:
        raise MachineError(
            f"bundle: its mesh {' × '.join(f'{name} {size}' for name, size in mesh)} needs {needed} devices, "
            f"this process has {len(found)}"
        )
    return found[:needed]
