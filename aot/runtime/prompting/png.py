"""Whether a PNG file holds all of its rows: Pillow leaves those black that the compressed data do not reach."""

import math
import struct
import zlib
from collections.abc import Iterator

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and steps, of the passes of an interlaced picture."""
_PIECE = 1 << 20


def check_rows(data: bytes) -> None:
    """Raises ValueError for a file, whose header Pillow takes, with less data than its size needs."""
    needed, held = _needed(data), 0
    for piece in _unpacked(data):
        held += len(piece)
        if held >= needed:
            return
    raise ValueError(f"its rows take {needed} bytes, it has {held}")


def _needed(data: bytes) -> int:
    """Bytes of all rows, each with that of its filter."""
    width, height, depth, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sides = (
        (math.ceil((width - left) / across), math.ceil((height - top) / down)) for left, top, across, down in passes
    )
    bits = depth * _CHANNELS[color]
    return sum(rows * (1 + math.ceil(columns * bits / 8)) for columns, rows in sides if columns > 0 and rows > 0)


def _unpacked(data: bytes) -> Iterator[bytes]:
    """The data of the rows, a piece at a time, up to where they are damaged."""
    stream = zlib.decompressobj()
    try:
        for chunk in _chunks(data):
            while chunk and not stream.eof:
                yield stream.decompress(chunk, _PIECE)
                chunk = stream.unconsumed_tail
    except zlib.error:
        return


def _chunks(data: bytes) -> Iterator[bytes]:
    """The parts of the compressed data."""
    place = 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"IDAT":
            yield data[place + 8 : place + 8 + length]
        place += length + 12
