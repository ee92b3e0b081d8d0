"""Files of a bundle that are read long after it was loaded, whatever has become of their names by then."""

import os
import resource
import weakref
from collections.abc import Iterator

_PIECE = 1 << 22


class Held:
    """A file that stays open as long as this does, or is in memory; its bytes are to be checked by whoever reads."""

    def __init__(self, descriptor: int, size: int, *, is_open: bool) -> None:
        self.size = size
        self._data = None if is_open else b"".join(pieces(descriptor, size))
        self._descriptor = os.dup(descriptor) if is_open else None
        if self._descriptor is not None:
            weakref.finalize(self, os.close, self._descriptor).atexit = False  # then the system closes it

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the file in order. Raises OSError. May be called from several threads."""
        if self._descriptor is None:
            yield self._data or b""
        else:
            yield from pieces(self._descriptor, self.size)


def pieces(descriptor: int, size: int) -> Iterator[bytes]:
    """The bytes of an open file from its beginning, at most so many."""
    place = 0
    while place < size and (piece := os.pread(descriptor, min(_PIECE, size - place), place)):
        place += len(piece)
        yield piece


def room() -> int:
    """Half of the files that this process may still open: the rest is for whoever else needs some."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return 1 << 20
    try:
        taken = len(os.listdir("/proc/self/fd"))
    except OSError:  # a system that does not say
        taken = most // 2
    return (most - taken) // 2
