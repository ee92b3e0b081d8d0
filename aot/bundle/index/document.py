"""A msgpack document, read strictly: there is one spelling of a value, whatever else would decode to it is refused."""

import functools
import math
import re
import reprlib
from typing import Any

import msgspec

from aot.errors import BundleError

_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_PATH = re.compile(r"(.*?)(?: - at (?:`key` in )?`(.*)`)?", re.DOTALL)
_BYTES, _VALUES, _DEPTH = 1 << 20, 1 << 16, 16
_TOLD = 200  # characters of msgspec's words


class Fault(Exception):
    """A value that is not what may be there, and the way to it."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = path

    def under(self, place: str) -> "Fault":
        """The fault, seen from what has it at a place."""
        return Fault(self.problem, f"{place}{self.path}")


def refusal(where: str, fault: Fault) -> BundleError:
    """What a reader is told of a fault."""
    place = f"{where}: {fault.path.removeprefix('.')}" if fault.path else where
    return BundleError(f"{place}: {fault.problem}; rebuild it")


def pack(value: Any) -> bytes:
    """The canonical bytes of records and plain values: equal ones give equal bytes, in whatever order mappings are."""
    return _ENCODER.encode(value)


def peek(kind: Any, data: bytes) -> Any:
    """The value of a type in some bytes, in whatever spelling. Raises Fault."""
    try:
        return _decoder(kind).decode(data)
    except msgspec.ValidationError as error:
        problem, path = _PATH.fullmatch(str(error)).groups("$")  # type: ignore[union-attr]  # which anything matches
        raise Fault(_spelled(problem), path.removeprefix("$")) from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Fault(f"is no msgpack document ({error})") from error


def unpack(kind: Any, data: bytes) -> Any:
    """The value of a type in its canonical bytes. Raises Fault."""
    value = peek(kind, data)
    try:
        canonical = pack(value)
    except (ValueError, RecursionError) as error:
        raise Fault(f"cannot be spelled ({error})") from error
    if canonical != data:
        raise Fault("is not in canonical form: all fields, in order, names sorted and each once, shortest numbers")
    return value


def mapping(data: msgspec.Raw) -> Any:
    """A mapping of what JSON can say in some canonical bytes, with tuples for lists. Raises Fault."""
    if (size := memoryview(data).nbytes) > _BYTES:
        raise Fault(f"has {size} bytes, at most {_BYTES} are allowed")
    if type(value := unpack(Any, bytes(data))) is not dict:
        raise Fault(f"must be a mapping, got {reprlib.repr(value)}")
    return _frozen(value, [_VALUES])


def _frozen(value: Any, left: list[int], depth: int = _DEPTH) -> Any:
    left[0] -= 1
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float and math.isfinite(value):
        return value
    if left[0] < 0 or not depth:
        raise Fault(f"may hold {_VALUES} values, {_DEPTH} deep")
    if kind is list:
        return tuple([_frozen(item, left, depth - 1) for item in value])
    if kind is dict and all(type(name) is str for name in value):
        return {name: _frozen(item, left, depth - 1) for name, item in value.items()}
    raise Fault(f"must be what JSON can say, got {reprlib.repr(value)}")


@functools.cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def _spelled(problem: str) -> str:
    """In our words, and in one line: it may name a field that a stranger named."""
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in problem[:_TOLD])
    return printable.replace("`", "'").replace("Expected ", "must be ", 1).removeprefix("Object ")
