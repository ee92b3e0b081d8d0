"""Lays out a model's weights in the staged bundle, tensor by tensor."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aot import digest
from aot.builder import sources
from aot.bundle import weights as layout
from aot.bundle.records import WeightsRecord
from aot.bundle.writer import Nowhere, Writer

if TYPE_CHECKING:
    from aot.plan import Plan


def write(plan: "Plan", writer: Writer, progress: Callable[[str], None]) -> WeightsRecord:
    """Streams every weight of the plan's model into blobs. Raises InputError for weights that are not as declared."""
    model = sources.model(plan)
    arrays = {path: (array.dtype, array.shape) for path, array in model.abstract_weights().items()}

    def told() -> Iterator[tuple[str, "np.ndarray[Any, Any]"]]:
        for path, array in model.weights():
            progress(f"weight {path}")
            yield path, array

    return layout.write(writer, layout.plan(arrays), told())


@dataclass(frozen=True)
class Measured:
    """What `write` would make, and the digest of each weight's own bytes."""

    record: WeightsRecord
    digests: Mapping[str, str]


def measure(plan: "Plan", progress: Callable[[str], None]) -> Measured:
    """Hashes every weight of the plan's model, laid out as `write` does it. Raises as `write`."""
    model = sources.model(plan)
    arrays = {path: (array.dtype, array.shape) for path, array in model.abstract_weights().items()}
    digests: dict[str, str] = {}

    def told() -> Iterator[tuple[str, "np.ndarray[Any, Any]"]]:
        for path, array in model.weights():
            progress(f"weight {path}")
            digests[path] = digest.of(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            yield path, array

    return Measured(layout.write(Nowhere(), layout.plan(arrays), told()), digests)
