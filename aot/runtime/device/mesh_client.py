"""The devices of a mesh, through jax: every array in its parts, one for each device that has some of it."""

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
from jaxlib import _jax, xla_client

from aot.bundle.index.bounds import Axes, Mesh
from aot.bundle.index.records import ArgumentRecord, ProgramRecord
from aot.errors import MachineError
from aot.runtime.device import client, jax_client, mesh_contract
from aot.runtime.device.client import Buffer, Executable
from aot.runtime.peers import processes
from aot.runtime.peers.processes import Group


class MeshClient:
    """The devices of a mesh, in its order; those of other processes too, where there are any."""

    def __init__(self, platform: str, mesh: Mesh, ids: Sequence[int] = (), group: Group | None = None) -> None:
        self._group = group
        shape, names = [size for _, size in mesh], [name for name, _ in mesh]
        needed = math.prod(shape)
        if group is None:
            self._devices = jax_client.find_devices(platform, max([needed, *(id + 1 for id in ids)]), ids)[:needed]
        else:
            self._devices = _joined(platform, needed, group)
        grid: Any = np.array(self._devices, object)
        self._mesh = jax.sharding.Mesh(grid.reshape(shape), names)
        # Virtual devices share their threads, which wait in a collective for those of its other devices: two programs
        # at a time leave too few. Real devices take programs in order, which has to be the same for all of them.
        self._lock, self._one_at_a_time = threading.Lock(), platform == "cpu"
        # Looking these up takes longer than putting a small array; there are few axes and shapes in a bundle.
        self._sharding, self._parts = cache(self._sharding_of), cache(self._parts_of)

    def put(self, array: "np.ndarray[Any, Any]", axes: Axes = ()) -> Buffer:
        aval, sharding, devices, parts = self._parts(array.shape, array.dtype, axes)
        return xla_client.batched_device_put(aval, sharding, [array[part] for part in parts], devices)

    def zeros(self, record: ArgumentRecord) -> Buffer:
        kind = client.numpy_dtype(record.dtype)
        aval, sharding, devices, _ = self._parts(record.shape, kind, record.sharding)
        part = np.zeros(sharding.shard_shape(record.shape), kind)
        return xla_client.batched_device_put(aval, sharding, [part] * len(devices), devices)

    def read(self, buffer: Buffer) -> "np.ndarray[Any, Any]":
        with processes.watched_call(self._group):
            return np.asarray(buffer.addressable_data(0) if buffer.is_fully_replicated else buffer)

    def load(self, data: bytes, program: ProgramRecord) -> Executable:
        mesh_contract.check_partitions(data, program, len(self._devices))
        loaded = client.load_executable(self._devices[0].client, data, self._devices, program)
        header = (loaded.get_hlo_text() or "").partition("\n")[0]
        mesh_contract.check_executable(header, program, self._sharding)
        return self._callable(loaded, program)

    def compile(self, data: bytes, program: ProgramRecord) -> Executable:
        made = jax_client.compile_export(data, lambda exported: exported.in_shardings_jax(self._mesh))
        return self._callable(made, program)

    def _callable(self, loaded: "_jax.LoadedExecutable", program: ProgramRecord) -> Executable:
        handlers = [self._handler(result) for result in program.results]
        check = mesh_contract.argument_check(program, self._sharding)

        def run(arguments: Sequence[Buffer]) -> list[Buffer]:
            check(arguments)
            with self._lock, _named(program), processes.watched_call(self._group):
                made: list[Buffer] = loaded.execute_sharded(list(arguments)).consume_with_handlers(handlers)
                if self._one_at_a_time:
                    made[-1].block_until_ready()  # all become ready at once
            return made

        return run

    def _handler(self, record: ArgumentRecord) -> "_jax.ResultHandler":
        """What makes one array of the parts that the devices give."""
        aval = jax.core.ShapedArray(record.shape, client.numpy_dtype(record.dtype))
        return client.result_handler(aval, self._sharding(record.sharding))

    def _sharding_of(self, axes: Axes) -> jax.sharding.NamedSharding:
        return jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec(*axes))

    def _parts_of(self, shape: tuple[int, ...], kind: "np.dtype[Any]", axes: Axes) -> tuple[Any, Any, list[Any], Any]:
        """What placing an array of a shape takes: each device of this process, and which part of the array it has."""
        sharding = self._sharding(axes)
        parts = sharding.addressable_devices_indices_map(shape)
        return jax.core.ShapedArray(shape, kind), sharding, list(parts), list(parts.values())


@contextlib.contextmanager
def _named(program: ProgramRecord) -> Iterator[None]:
    """Raises MachineError for what XLA reports of a call, where it is not other processes that are the cause."""
    try:
        yield
    except RuntimeError as error:  # jaxlib's own is one
        cause = " ".join(str(error).split())
        raise MachineError(f"program {program.name}: XLA does not run it: {cause[:200]}; verify the bundle") from error


def _joined(platform: str, needed: int, group: Group) -> list[Any]:
    """The devices of all processes of a group, those of a process side by side; each has its equal part of a mesh."""
    processes = group.distributed.processes
    if needed % processes:
        raise MachineError(
            f"distributed: {processes} processes cannot share a mesh of {needed} devices equally; "
            f"start as many as divide {needed}"
        )
    here = needed // processes
    found = group.backend(here, _cpu).devices() if platform == "cpu" else jax.devices(platform)
    if len(found) != needed:
        raise MachineError(f"distributed: the mesh needs {needed} devices, {processes} processes have {len(found)}")
    return sorted(found, key=lambda device: (device.process_index, device.id))


def _cpu(group: Group, count: int) -> "_jax.Client":
    """A client of so many virtual devices, which meets those of the other processes."""
    address = group.here  # by default Gloo takes what the host name resolves to, which need not be reachable
    return xla_client.make_cpu_client(
        distributed_client=group.client,
        node_id=group.distributed.process,
        num_nodes=group.distributed.processes,
        collectives=_jax.make_gloo_tcp_collectives(distributed_client=group.client, hostname=address),
        num_devices=count,
    )
