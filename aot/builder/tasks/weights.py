"""Lays out a model's weights in the staged bundle, tensor by tensor."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aot import digest
from aot.builder import pace
from aot.builder.lowering import sources
from aot.builder.tasks.task import Task
from aot.bundle import weight_writer
from aot.bundle import weights as layout
from aot.bundle.index.records import WeightsRecord
from aot.bundle.writer import Nowhere, Writer
from aot.plan import Plan

Take = Callable[[str, "np.ndarray[Any, Any]"], None]


@dataclass(frozen=True)
class WriteWeights(Task[WeightsRecord]):
    """Lays out the weights of a plan's model in a staged bundle, unless they are those that are held already."""

    name = "weights"

    plan: Plan
    staging: Path
    held: WeightsRecord | None = None

    def perform(self, progress: pace.Progress) -> WeightsRecord:
        """The record of the weights."""
        return write_weights(self.plan, Writer.join(self.staging), progress, self.held)


def write_weights(
    plan: Plan, writer: Writer, progress: pace.Progress, held: WeightsRecord | None = None
) -> WeightsRecord:  # fmt: skip
    """Streams every weight of the plan's model into blobs, unless they turn out to be those that are held already.

    Raises InputError for weights that are not as declared.
    """
    if held is not None and (made := _laid_out(plan, Nowhere(), progress)) == held:
        return made
    return _laid_out(plan, writer, progress)


@dataclass(frozen=True)
class Measured:
    """What `write` would make, and the digest of each weight's own bytes."""

    record: WeightsRecord
    digests: Mapping[str, str]


@dataclass(frozen=True)
class MeasureWeights(Task[Measured]):
    """Hashes the weights of a plan's model; nothing is written."""

    name = "measure"

    plan: Plan

    def perform(self, progress: pace.Progress) -> Measured:
        """What they would be."""
        return measure_weights(self.plan, progress)


def measure_weights(plan: Plan, progress: pace.Progress) -> Measured:
    """Hashes every weight of the plan's model, laid out as `write` does it. Raises as `write`."""
    digests: dict[str, str] = {}

    def take(path: str, array: "np.ndarray[Any, Any]") -> None:
        digests[path] = digest.digest_of(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    return Measured(_laid_out(plan, Nowhere(), progress, take), digests)


def _laid_out(
    plan: Plan, writer: Writer | Nowhere, progress: pace.Progress, take: Take = lambda *_: None
) -> WeightsRecord:
    """Streams weights as they are planned; each is taken on its way."""
    model = sources.model(plan)
    arrays = {path: (array.dtype, array.shape) for path, array in model.abstract_weights().items()}
    shards = layout.plan(arrays)
    sizes = {tensor.path: tensor.size for shard in shards for tensor in shard.tensors}
    clock = pace.Pace(len(sizes) + sum(sizes.values()))

    def told() -> Iterator[tuple[str, "np.ndarray[Any, Any]"]]:
        for path, array in model.weights():
            take(path, array)
            yield path, array
            progress(f"weight {path}", clock.left(1 + sizes[path]), len(sizes))

    return weight_writer.write_tensors(writer, shards, told())
