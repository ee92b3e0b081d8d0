"""Weights on disk: safetensors files whose tensors start on 64-byte boundaries, so that a memory map is used in place.

The format (its README is the spec) is the header's length as 8 bytes little-endian, the header in JSON, and the data
without holes. The header is padded with spaces, as the format allows; gaps between tensors are filled with `U8` tensors
named `~pad/0`, `~pad/1`, ….
"""

import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aot import digest, dtypes, strict_json
from aot.bundle.index.records import WeightsRecord
from aot.errors import BundleError, InputError

ALIGNMENT = 64
_NAMES = {theirs: name for name, theirs in dtypes.SAFETENSORS.items()}
_PAD = "~pad/"
_HEADER_LIMIT = 100_000_000  # the library's own
_RANK_LIMIT = 64  # NumPy's

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """A tensor's place in a shard: `offset` counts bytes from the beginning of the file."""

    path: str
    dtype: str
    shape: Shape
    offset: int

    @property
    def size(self) -> int:
        """The bytes of the tensor's data."""
        return _size(self.dtype, self.shape)


@dataclass(frozen=True)
class Shard:
    """One file: its header, the length of the header included, and its tensors in the order of their data."""

    header: bytes
    tensors: tuple[Tensor, ...]


def plan(arrays: Mapping[str, tuple[str, Shape]], limit: int = 2 << 30) -> tuple[Shard, ...]:
    """Shards of whole tensors, in the order of `arrays`, none of more than `limit` bytes unless one tensor is.

    Raises InputError for a dtype or a name that the format cannot hold.
    """
    groups: list[list[Tensor]] = []
    end = 0
    for path, (dtype, shape) in arrays.items():
        _check_storable(path, dtype)
        offset = _aligned(end)
        if not groups or offset + _size(dtype, shape) > limit:
            groups.append([])
            offset = 0
        groups[-1].append(Tensor(path, dtype, tuple(shape), offset))
        end = offset + _size(dtype, shape)
    return tuple(_shard(group) for group in groups)


def tensor_table(view: memoryview, where: str) -> dict[str, tuple[str, Shape, int]]:
    """(dtype, shape, offset in the view) of each weight in a safetensors file; nothing of the data is read.

    Raises BundleError unless the file is laid out as `plan` does it.
    """
    try:
        length = _header_length(view)
        header = strict_json.parse_strictly(bytes(view[8 : 8 + length]))
        tensors = {path: _tensor(path, fields, 8 + length) for path, fields in _items(header)}
        _check_places(tensors, 8 + length, len(view))
    except ValueError as error:
        raise BundleError(f"{where}: weights: {error}; fetch it again or rebuild") from error
    return {path: (t.dtype, t.shape, t.offset) for path, t in tensors.items() if not path.startswith(_PAD)}


def agree(found: Mapping[str, tuple[str, Shape, int]], record: WeightsRecord, position: int, where: str) -> None:
    """Raises BundleError unless the table of the blob at a position is what the index says of it."""
    named = {path: (array.dtype, array.shape) for path, array in record.arrays.items() if array.blob == position}
    held = {path: (dtype, shape) for path, (dtype, shape, _) in found.items()}
    for path in sorted(named.keys() | held.keys()):
        if named.get(path) != held.get(path):
            here, there = describe_array(held.get(path)), describe_array(named.get(path))
            raise BundleError(f"{where}: weight {path!r} is {here}, in the index {there}; fetch it again or rebuild")


def describe_array(array: tuple[str, Shape] | None) -> str:
    """A dtype and a shape as messages say them."""
    return f"{array[0]} {list(array[1])}" if array else "absent"


def _size(dtype: str, shape: Shape) -> int:
    return math.prod(shape) * dtypes.SIZES[dtype]


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _check_storable(path: str, dtype: str) -> None:
    if dtype not in dtypes.SAFETENSORS:
        raise InputError(
            f"weights: {path!r} has the dtype {dtype!r}, storable are {', '.join(dtypes.SAFETENSORS)}; cast it"
        )
    if path == "__metadata__" or path.startswith(_PAD):
        raise InputError(f"weights: the name {path!r} belongs to the file format; rename the parameter")


def _shard(tensors: list[Tensor]) -> Shard:
    """The shard of tensors whose offsets still count from the beginning of the data."""
    fields: dict[str, Any] = {}
    end = 0
    for tensor in tensors:
        if gap := tensor.offset - end:
            fields[f"{_PAD}{sum(name.startswith(_PAD) for name in fields)}"] = _fields("U8", (gap,), end, gap)
        fields[tensor.path] = _fields(dtypes.SAFETENSORS[tensor.dtype], tensor.shape, tensor.offset, tensor.size)
        end = tensor.offset + tensor.size
    text = digest.canonical_json(fields)
    header = text.ljust(_aligned(8 + len(text)) - 8)
    start = 8 + len(header)
    moved = tuple(Tensor(t.path, t.dtype, t.shape, start + t.offset) for t in tensors)
    return Shard(len(header).to_bytes(8, "little") + header, moved)


def _fields(dtype: str, shape: Shape, begin: int, size: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": (begin, begin + size)}


def _header_length(view: memoryview) -> int:
    length = int.from_bytes(view[:8], "little")
    if len(view) < 8 or length > min(len(view) - 8, _HEADER_LIMIT):
        raise ValueError(f"the header of {length} bytes does not fit into {len(view)}")
    if (8 + length) % ALIGNMENT:
        raise ValueError(f"the data begin at {8 + length}, which is no multiple of {ALIGNMENT}")
    return length


def _items(header: Any) -> Iterator[tuple[str, Any]]:
    if type(header) is not dict:
        raise ValueError("the header must be an object")
    return iter(header.items())


def _tensor(path: str, value: Any, start: int) -> Tensor:
    where = reprlib.repr(path)
    fields = strict_json.expect(value, where, {"dtype": str, "shape": list, "data_offsets": list})
    if fields["dtype"] not in _NAMES:
        raise ValueError(f"{where}.dtype must be one of {', '.join(_NAMES)}, got {reprlib.repr(fields['dtype'])}")
    numbers = fields["shape"] + fields["data_offsets"]
    if len(fields["data_offsets"]) != 2 or len(fields["shape"]) > _RANK_LIMIT or not all(map(_natural, numbers)):
        raise ValueError(
            f"{where} must have a shape of at most {_RANK_LIMIT} axes and two data_offsets, all at least 0"
        )
    begin, end = fields["data_offsets"]
    tensor = Tensor(path, _NAMES[fields["dtype"]], tuple(fields["shape"]), start + begin)
    if end - begin != tensor.size:
        raise ValueError(f"{where} has {end - begin} bytes, its dtype and shape make {tensor.size}")
    return tensor


def _natural(number: object) -> bool:
    return type(number) is int and 0 <= number < 1 << 63


def _check_places(tensors: Mapping[str, Tensor], start: int, end: int) -> None:
    for path, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].size)):
        if tensor.offset != start:
            raise ValueError(f"{reprlib.repr(path)} begins at {tensor.offset}, the data before it end at {start}")
        if tensor.offset % ALIGNMENT and not path.startswith(_PAD):
            raise ValueError(f"{reprlib.repr(path)} begins at {tensor.offset}, which is no multiple of {ALIGNMENT}")
        start += tensor.size
    if start != end:
        raise ValueError(f"the data end at {start}, the file at {end}")
