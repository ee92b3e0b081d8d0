"""Measures what quantization costs, in a worker: the model beside itself in its own dtype, on golden inputs."""

import math
from dataclasses import dataclass

import numpy as np

from aot.builder.lowering import sources
from aot.builder.pace import Progress
from aot.builder.tasks.task import Task
from aot.bundle.index.records import ArgumentRecord
from aot.bundle.loss import Loss
from aot.golden import exercise
from aot.plan import Plan

_TOKENS = 256
"""Tokens of golden inputs that are taken: with a vocabulary of 150,000 their logits are 150 MB."""


@dataclass(frozen=True)
class MeasureLoss(Task[bytes | None]):
    """Measures what the quantization of a plan's model costs."""

    name = "loss"

    plan: Plan

    def perform(self, progress: Progress) -> bytes | None:
        """The loss, written; None where what the model gives is not finite."""
        return measured(self.plan)


def measured(plan: Plan) -> bytes | None:
    """The loss of a plan's model, written; None where what the model gives is not finite."""
    from aot.models import divergence
    from aot.models.language import LanguageModel

    model, (rows, width) = sources.model(plan), golden_shape(plan)
    assert isinstance(model, LanguageModel), model
    tokens = ArgumentRecord("tokens", "int32", (rows, width), (None, None))
    ids = exercise.exercise_values("tokens", tokens, model.config.decoder.vocab_size)
    found = divergence.measure_divergence(model, ids, exercise.row_lengths(rows, width))
    if not math.isfinite(found.nats):
        return None
    assert plan.model.quantization is not None, plan
    assert plan.model.dtype is not None, plan
    nats = max(0.0, float(np.float32(found.nats)))  # no less than nothing, and no digits that mean nothing
    return Loss(plan.model.quantization, plan.model.dtype, found.tokens, nats, found.alike).write()


def golden_shape(plan: Plan) -> tuple[int, int]:
    """Rows and tokens a row: of the largest combo with so few tokens, else of the smallest."""
    shapes = sorted(
        ((c.batch_size, c.prefill_length or 1) for c in plan.combos), key=lambda shape: (math.prod(shape), shape)
    )
    return next((shape for shape in reversed(shapes) if math.prod(shape) <= _TOKENS), shapes[0])
