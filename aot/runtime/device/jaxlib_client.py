"""The device through jaxlib's client alone: what jax itself calls, without importing jax, which takes a second.

Nothing of this is public in jaxlib. All names are used in here, and tried when a client is made: a jaxlib in which one
is missing or gives something else is unknown, and the way through jax is taken instead.
"""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxlib import _jax, xla_client

from aot.bundle.index.bounds import Axes
from aot.bundle.index.records import ArgumentRecord, ProgramRecord
from aot.runtime.device import client
from aot.runtime.device.client import Buffer, Executable


class UnknownError(Exception):
    """A jaxlib whose private names are not those that we know; says which."""


def virtual_clients(ids: Sequence[int]) -> "Iterator[JaxlibClient]":
    """A client for each of some virtual devices, of which there are as many as it takes. Raises UnknownError."""
    backend = _backend(max(ids) + 1 if any(ids) or len(ids) > 1 else None, os.getpid())
    return (JaxlibClient(backend, id) for id in ids)


def count_virtual_devices() -> int:
    """How many virtual devices this process has unless more are asked for: XLA_FLAGS may say so."""
    return len(_backend(None, os.getpid()).devices())


class JaxlibClient:
    """The CPU of this process, or one of its virtual devices. Raises UnknownError where jaxlib is not as we know it."""

    def __init__(self, backend: "_jax.Client | None" = None, id: int = 0) -> None:
        try:
            self._start(backend, id)
            self._try()
        except UnknownError:
            raise
        except Exception as error:  # whatever calling a private name in a wrong way may raise
            raise UnknownError(f"jaxlib: {type(error).__name__}: {str(error).partition(chr(10))[0]}") from error

    def put(self, array: "np.ndarray[Any, Any]", axes: Axes = ()) -> Buffer:
        return self._put(_aval(array.shape, array.dtype), self._sharding, [array], self._devices)

    def zeros(self, record: ArgumentRecord) -> Buffer:
        return self.put(client.host_zeros(record))

    def read(self, buffer: Buffer) -> "np.ndarray[Any, Any]":
        try:
            return np.asarray(memoryview(buffer))
        except BufferError:  # bfloat16 and its like are no part of Python's buffers; this way imports jax
            array, _ = buffer._single_device_array_to_np_array_did_copy()
            return array

    def load(self, data: bytes, program: ProgramRecord) -> Executable:
        loaded = client.load_executable(self._client, data, self._devices, program)
        handlers = [self._handler(tuple(result.shape), client.numpy_dtype(result.dtype)) for result in program.results]

        def run(arguments: Sequence[Buffer]) -> list[Buffer]:
            made: list[Buffer] = client.run_loaded(loaded, arguments, program).consume_with_handlers(handlers)
            return made

        return run

    def compile(self, data: bytes, program: ProgramRecord) -> Executable:
        raise AssertionError("a client that compiles was not asked for")

    def _start(self, backend: "_jax.Client | None", id: int) -> None:
        if "jax" not in sys.modules:  # which has set it already
            _jax.jax_jit.set_enable_x64_state(_jax.config.Config("jax_enable_x64", False))
        self._client = backend or _backend(None, os.getpid())
        self._devices = self._client.devices()[id : id + 1]
        self._list = xla_client.DeviceList(tuple(self._devices))
        self._sharding = _sharding(self._devices[0], self._list)
        self._put = xla_client.batched_device_put

    def _try(self) -> None:
        owners = {
            _jax.LoadedExecutable: ("execute_sharded",),
            _jax.ExecuteResults: ("consume_with_handlers",),
            _jax.Client: ("deserialize_executable",),
        }
        for owner, names in owners.items():
            if missing := [name for name in names if not hasattr(owner, name)]:
                raise UnknownError(f"jaxlib: {owner.__name__} has no {missing[0]}")
        given = np.arange(6, dtype=np.int32).reshape(2, 3)
        self._handler(given.shape, given.dtype)
        if not np.array_equal(self.read(self.put(given)), given):
            raise UnknownError("jaxlib: an array comes back changed")

    def _handler(self, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> "_jax.ResultHandler":
        """What makes an array of a raw result."""
        return client.result_handler(_aval(shape, dtype), self._sharding)


@cache
def _backend(devices: int | None, process: int) -> "_jax.Client":
    """One for all bundles of a process, of so many devices, or as many as XLA_FLAGS say.

    Its threads go with it, and it goes with Python's cycle collector alone, as jaxlib's clients and devices hold each
    other. A child of a fork has none of its parent's threads, so it gets a client of its own.
    """
    try:
        return xla_client.make_cpu_client(**({} if devices is None else {"num_devices": devices}))
    except Exception as error:  # whatever calling a private name in a wrong way may raise
        raise UnknownError(f"jaxlib: {type(error).__name__}: {str(error).partition(chr(10))[0]}") from error


class _Aval:
    """What jaxlib asks of an abstract value."""

    weak_type = False

    def __init__(self, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> None:
        self.shape, self.dtype = shape, dtype
        self.ndim, self.size = len(shape), math.prod(shape)


_aval = cache(_Aval)


def _sharding(device: "_jax.Device", devices: "xla_client.DeviceList") -> "xla_client.SingleDeviceSharding":
    """Everything on one device, with the methods that jaxlib calls and jax would add."""
    whole = xla_client.HloSharding.replicate()

    class Here(xla_client.SingleDeviceSharding):
        memory_kind = None
        _internal_device_list = devices

        def _to_xla_hlo_sharding(self, rank: int) -> "xla_client.HloSharding":
            return whole

        def devices_indices_map(self, shape: tuple[int, ...]) -> dict[Any, tuple[slice, ...]]:
            return {device: tuple(slice(None) for _ in shape)}

    return Here(device)
