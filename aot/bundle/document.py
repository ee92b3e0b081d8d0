"""A msgpack document, read strictly: there is one spelling of a value, whatever else would decode to it is refused."""

import itertools
import reprlib
from collections.abc import Iterable
from typing import Any

import msgpack

from aot.errors import BundleError


class Fault(Exception):
    """A value that is not what its type hint says: its row in the column, and the way to it from there."""

    def __init__(self, problem: str, row: int = 0, path: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.row = row
        self.path = path

    def under(self, field: str) -> "Fault":
        """The same fault, seen from the record that has the field."""
        return Fault(self.problem, self.row, f".{field}{self.path}")

    def within(self, names: Iterable[Iterable[object]]) -> "Fault":
        """The same fault, seen from the column of containers whose items, named so, its own column runs through."""
        items = ((row, name) for row, inner in enumerate(names) for name in inner)
        row, name = next(itertools.islice(items, self.row, None))
        return Fault(self.problem, row, f"[{reprlib.repr(name)}]{self.path}")


def refusal(place: str, error: Exception) -> BundleError:
    """What a reader is told of a fault, or of what Python raised for a value beyond its limits."""
    problem = error.problem if isinstance(error, Fault) else str(error) or type(error).__name__
    return BundleError(f"{place}: {problem}; rebuild it")


def pack(value: Any) -> bytes:
    """The canonical bytes of plain values: equal ones give equal bytes where their mappings are in one order."""
    packed: bytes = msgpack.packb(value, use_bin_type=True, strict_types=True)
    return packed


def unpack(data: bytes) -> Any:
    """The value in some canonical bytes, with tuples for arrays. Raises Fault."""
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
