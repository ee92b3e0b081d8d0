"""Puts weights on the device: on CPU in place, where the memory map of their blobs has them."""

import ctypes
import mmap
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from aot.bundle import weights as layout
from aot.bundle.index.bounds import Axes
from aot.bundle.store import Bundle
from aot.runtime.device.client import Buffer, Client, numpy_dtype
from aot.slots import WEIGHT

_POPULATE_READ = 22  # madvise(2), since Linux 5.14; others refuse it, and pages come as they are touched
_THREADS = 2


def map_weights(bundle: Bundle) -> tuple[memoryview, ...]:
    """The weight blobs, mapped; threads make their pages present while other things are done."""
    views = tuple(bundle.map(blob.digest, blob.bytes) for blob in bundle.index.weights.blobs)
    for view in views:
        _populate(view)
    return views


def place_weights(
    bundle: Bundle, views: tuple[memoryview, ...], client: Client, shardings: Mapping[str, Axes]
) -> Mapping[str, Buffer]:
    """Every weight on the device, by its slot, laid over a mesh as programs take it.

    Raises BundleError for blobs that are not as the index says.
    """
    placed = {}
    for position, (blob, view) in enumerate(zip(bundle.index.weights.blobs, views, strict=True)):
        where = f"bundle {bundle.path}: blob {blob.digest[:19]}…"
        table = layout.tensor_table(view, where)
        layout.agree(table, bundle.index.weights, position, where)
        for path, (kind, shape, offset) in table.items():
            count = int(np.prod(shape, dtype=np.int64))
            array = np.frombuffer(view, numpy_dtype(kind), count, offset).reshape(shape)
            slot = WEIGHT.slot(path)
            placed[slot] = client.put(array, shardings.get(slot, ()))
    return placed


def _populate(view: memoryview) -> None:
    """Maps all pages in a few threads: a fault for each would cost more, and fall on the first token."""
    if not len(view):
        return
    whole: np.ndarray[Any, Any] = np.frombuffer(view, np.uint8)
    part = -(-len(view) // _THREADS // mmap.PAGESIZE) * mmap.PAGESIZE

    def populate(offset: int) -> None:
        size = min(part, len(whole) - offset)
        ctypes.CDLL(None).madvise(ctypes.c_void_p(whole.ctypes.data + offset), ctypes.c_size_t(size), _POPULATE_READ)

    for offset in range(0, len(view), part):
        threading.Thread(target=populate, args=(offset,), name="aot-populate", daemon=True).start()
