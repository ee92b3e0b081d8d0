"""The index as bytes and back: canonical msgpack, read strictly by the type hints of the records.

A record is a map of its fields in order of declaration, a mapping is a map sorted by name, a tuple is an array. There
is one spelling of an index: whatever else would decode to it is refused.
"""

import collections.abc
import dataclasses
import reprlib
from typing import Any

import msgpack

from aot.bundle import consistency, decoders
from aot.bundle.decoders import Fault
from aot.bundle.records import FORMAT, Index
from aot.errors import BundleError, MachineError


def encode(index: Index) -> bytes:
    """The canonical bytes of an index; equal indexes give equal bytes."""
    packed: bytes = msgpack.packb(plain(index), use_bin_type=True, strict_types=True)
    return packed


def decode(data: bytes, where: str) -> Index:
    """The index in some bytes. Raises BundleError with the path of the first fault, MachineError for a newer format."""
    try:
        _check_format(data, where)
        raw = _unpack(data)
        index: Index = decoders.of(Index)([raw])[0]
        consistency.check(index)
    except Fault as fault:
        place = f"{where}: {fault.path.removeprefix('.')}" if fault.path else where
        raise BundleError(f"{place}: {fault.problem}; rebuild it") from fault
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: {str(error) or type(error).__name__}; rebuild it") from error
    return index


def plain(value: Any) -> Any:
    """A value made of records as msgpack takes it; `decoders.of` reads it back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, collections.abc.Mapping):
        return {name: plain(item) for name, item in sorted(value.items())}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def _check_format(data: bytes, where: str) -> None:
    """Reads no further than the first pair, which keeps its place in every format version."""
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=64, max_str_len=16)
    unpacker.feed(data[:64])
    try:
        unpacker.read_map_header()
        first, found = unpacker.unpack(), unpacker.unpack()
    except (msgpack.UnpackException, ValueError) as error:
        raise Fault("does not begin with its format version") from error
    if first != "format" or type(found) is not int or found < 1:
        raise Fault(f"must begin with its format version, got {reprlib.repr(first)}: {reprlib.repr(found)}")
    if found > FORMAT:
        raise MachineError(
            f"{where}: has format version {found}, this aot reads up to {FORMAT}; install a newer jax-aot"
        )


def _unpack(data: bytes) -> Any:
    limit = len(data)
    try:
        # Skipping allocates nothing, so a declared length that the data do not hold is found before it costs memory.
        scanner = msgpack.Unpacker(max_buffer_size=limit, max_str_len=limit, max_array_len=limit, max_map_len=limit)
        scanner.feed(data)
        scanner.skip()
        if scanner.tell() != limit:
            raise Fault(f"goes on after its end: {limit} bytes, of which {scanner.tell()} are used")
        raw = msgpack.unpackb(data, raw=False, use_list=False, strict_map_key=True, ext_hook=_no_extension)
        canonical = msgpack.packb(raw, use_bin_type=True)
    except msgpack.OutOfData as error:
        raise Fault(f"is cut off after {limit} bytes") from error
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError) as error:
        raise Fault(f"is not what msgpack allows here ({reprlib.repr(str(error))})") from error
    if canonical != data:
        raise Fault("is not in canonical form: shortest numbers and lengths, no name twice")
    return raw


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} is not allowed")
