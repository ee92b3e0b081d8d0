"""How a builder and its workers speak: msgpack, in which names of files that are not UTF-8 come through as well."""

from typing import Any, BinaryIO

import msgpack

_ERRORS = "surrogateescape"  # as Python has them in such names


def packed(value: Any) -> bytes:
    """A message."""
    data: bytes = msgpack.packb(value, unicode_errors=_ERRORS)
    return data


def received(stream: BinaryIO) -> "msgpack.Unpacker":
    """The messages of a stream as they come."""
    return msgpack.Unpacker(stream, use_list=False, read_size=1, max_buffer_size=0, unicode_errors=_ERRORS)
