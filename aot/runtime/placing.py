"""Puts weights on the device, from the memory map of their blobs."""

from collections.abc import Mapping

import numpy as np

from aot.bundle import weights as layout
from aot.bundle.store import Bundle
from aot.runtime.client import Buffer, Client, dtype


def weights(bundle: Bundle, client: Client) -> Mapping[str, Buffer]:
    """Every weight on the device, by its slot. Raises BundleError for blobs that are not as the index says."""
    placed = {}
    for position, blob in enumerate(bundle.index.weights.blobs):
        where = f"bundle {bundle.path}: blob {blob.digest[:19]}…"
        view = bundle.map(blob.digest, blob.bytes)
        table = layout.table(view, where)
        layout.agree(table, bundle.index.weights, position, where)
        for path, (kind, shape, offset) in table.items():
            count = int(np.prod(shape, dtype=np.int64))
            array = np.frombuffer(view, dtype(kind), count, offset).reshape(shape)
            placed[f"weight/{path}"] = client.put(array)
    return placed
