"""Protobuf's wire format, as far as stored executables need it: messages as fields, and back, without a schema."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}
_LONGEST = 10  # bytes of a varint that holds 64 bits

Change = Callable[[bytes], bytes]
"""What makes other bytes of those of a submessage."""


class WireField(NamedTuple):
    """One field of a message: its number, its wire type, its value and its bytes as they stood, tag included."""

    number: int
    wire: int
    value: bytes
    """The payload of a delimited field; of others the encoded number."""
    raw: bytes


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at` and where it ends. Raises ValueError if there is none."""
    value = 0
    for place, byte in enumerate(data[at : at + _LONGEST]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError(f"no varint at byte {at}")


def varint(value: int) -> bytes:
    """A number, seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def delimited(number: int, payload: bytes) -> WireField:
    """A field that holds a string or a message."""
    return WireField(number, BYTES, payload, varint(number << 3 | BYTES) + varint(len(payload)) + payload)


def fields(message: bytes) -> list[WireField]:
    """The fields of a message, in its order. Raises ValueError for bytes that are none."""
    found, at = [], 0
    while at < len(message):
        start = at
        tag, at = read_varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == BYTES:
            size, at = read_varint(message, at)
            end = at + size
        elif wire in _SIZES:
            end = at + _SIZES[wire]
        elif wire == VARINT:
            _, end = read_varint(message, at)
        else:
            raise ValueError(f"wire type {wire} at byte {start}")
        if number == 0 or end > len(message):
            raise ValueError(f"field {number} at byte {start} ends at {end} of {len(message)}")
        found.append(WireField(number, wire, message[at:end], message[start:end]))
        at = end
    return found


def join_fields(parts: Iterable[WireField]) -> bytes:
    """The message of some fields."""
    return b"".join(part.raw for part in parts)


def only(message: bytes, number: int) -> bytes:
    """The value of a delimited field that occurs once. Raises ValueError for another number of them."""
    values = [field.value for field in fields(message) if (field.number, field.wire) == (number, BYTES)]
    if len(values) != 1:
        raise ValueError(f"field {number} occurs {len(values)} times, not once")
    return values[0]


def framed(raw: bytes) -> tuple[bytes, bytes]:
    """The header of some bytes, which begins with its length, and what follows. Raises ValueError."""
    size, at = read_varint(raw, 0)
    if at + size >= len(raw):
        raise ValueError(f"a header of {size} bytes in {len(raw)}")
    return raw[: at + size], raw[at + size :]


def number(message: bytes, field: int) -> int:
    """The value of a number that occurs once. Raises ValueError for another count of them."""
    values = [each.value for each in fields(message) if (each.number, each.wire) == (field, VARINT)]
    if len(values) != 1:
        raise ValueError(f"field {field} occurs {len(values)} times, not once")
    return read_varint(values[0], 0)[0]


def changed_within(message: bytes, place: tuple[int, ...], change: Change) -> bytes:
    """The message with the one submessage at `place` changed, and all the lengths around it."""
    if not place:
        return change(message)
    number, *rest = place
    changed = delimited(number, changed_within(only(message, number), tuple(rest), change))
    return join_fields(changed if field.number == number else field for field in fields(message))
