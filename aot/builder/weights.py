"""Lays out a model's weights in the staged bundle, tensor by tensor."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from aot.builder import sources
from aot.bundle import weights as layout
from aot.bundle.records import WeightsRecord
from aot.bundle.writer import Writer

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
