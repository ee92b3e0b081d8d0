"""Bytes that are spoiled: as JSON in what they mean, or as bytes. Each gives them, and says what was done."""

import json
import random
from collections.abc import Callable
from typing import Any

from fuzzing import changes

Spoil = Callable[[random.Random, bytes], tuple[bytes, str]]

_DEPTH = 100_000
_HOSTILE = (
    b"", b"\xff\xfe", b"[]", b"{}", b"null", b"NaN", b"1" * 5000, b"[" * _DEPTH, b'{"a":' * _DEPTH, b'{"a":1,"a":2}',
    b"1e400", b'"\\ud800"', b'{"\\ud800":1}', b" " * (2 << 20),
)  # fmt: skip
"""JSON that is none, or none that anyone wants."""


def json_document(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """A JSON document changed in meaning, or spoiled as bytes."""
    if rng.random() < 0.2:
        return some_bytes(rng, data)
    made = {"it": json.loads(data)}
    said = changes.change(rng, made, changes.places(made["it"]) if rng.random() < 0.95 else None)
    return spelled(made.get("it")), said


def spelled(value: Any) -> bytes:
    """Canonical JSON but for NaN and infinities, which it has no spelling for."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def some_bytes(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """A bit, a piece, or all of it."""
    how = rng.choice((one_bit, _cut, _hostile))
    return how(rng, data)


def one_bit(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """One bit flipped."""
    at, bit = rng.randrange(max(1, len(data))), 1 << rng.randrange(8)
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :] if data else b"x", f"bit {bit} of byte {at} flipped"


def _cut(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    at, gone = rng.randrange(len(data) + 1), rng.choice((0, 1, 8, len(data)))
    piece = rng.choice((b"", b"\0", b"{", b"}", b'"', b",", b"\xff", data[:64]))
    return data[:at] + piece + data[at + gone :], f"{gone} bytes out at {at}, {changes.shown(piece)} in"


def _hostile(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    made = rng.choice(_HOSTILE)
    return made, f"{changes.shown(made)} instead"


def bits(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """A few bits flipped."""
    made, said = bytearray(data), []
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, bit = rng.randrange(len(made)), 1 << rng.randrange(8)
        made[at] ^= bit
        said.append(f"{at}^{bit}")
    return bytes(made), " ".join(said)


_MSGPACK = (
    b"", b"\xc0", b"\xc1", b"\x80", b"\x90", b"\xff", b"\xa0", b"\xcf" + b"\xff" * 8, b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xd4\x01\x00", b"\xd6\xff\0\0\0\0",
    b"\x91" * 600, b"\x91" * 200_000, b"\x81\xa1x" * 600, b"\xcb\x7f\xf8" + b"\0" * 6, b"\xa1\xff", b"\xca\0\0\0\0",
)  # fmt: skip
"""Of msgpack: nothing, the byte it never uses, containers of four billion, extensions, depth, NaN, no UTF-8."""


def msgpack_pieces(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Bytes taken out, and some that msgpack knows put in."""
    at, gone, piece = rng.randrange(len(data) + 1), rng.choice((0, 1, 1, 2, 9, len(data))), rng.choice(_MSGPACK)
    return data[:at] + piece + data[at + gone :], f"{gone} out at {at}, {changes.shown(piece)} in"
