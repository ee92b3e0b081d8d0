"""Writes weights, laid out as `weights` plans them, into the blobs of a bundle in the making."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from aot.bundle.index.records import BlobRecord, WeightRecord, WeightsRecord
from aot.bundle.weights import Shard, Tensor, describe_array
from aot.bundle.writer import Nowhere, Writer
from aot.errors import InputError

if TYPE_CHECKING:
    from typing import Any

    import numpy as np


def write_tensors(
    writer: Writer | Nowhere, shards: Iterable[Shard], tensors: Iterable[tuple[str, "np.ndarray[Any, Any]"]]
) -> WeightsRecord:
    """Streams tensors, which come in the order of the plan, into blobs, holding one at a time.

    Raises InputError for a tensor that is not the planned one.
    """
    stream = iter(tensors)
    blobs: list[BlobRecord] = []
    arrays: dict[str, WeightRecord] = {}
    for position, shard in enumerate(shards):
        with writer.file() as file:
            file.write(shard.header)
            for tensor in shard.tensors:
                file.write(bytes(tensor.offset - file.size))
                file.write(_next_data(stream, tensor))
                arrays[tensor.path] = WeightRecord(tensor.dtype, tensor.shape, position)
        blobs.append(file.record)
    if surplus := next(stream, None):
        raise InputError(f"weights: {surplus[0]!r} was not planned; give each weight once, in the order of the plan")
    return WeightsRecord(tuple(blobs), arrays)


def _next_data(stream: Iterator[tuple[str, "np.ndarray[Any, Any]"]], tensor: Tensor) -> memoryview:
    import numpy as np

    path, array = next(stream, ("nothing", np.empty(0)))
    found = (path, array.dtype.name, array.shape)
    if found != (tensor.path, tensor.dtype, tensor.shape):
        raise InputError(
            f"weights: got {path!r} {describe_array(found[1:])}, planned is {tensor.path!r} "
            f"{describe_array((tensor.dtype, tensor.shape))}; give each weight once, in the order of the plan"
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
