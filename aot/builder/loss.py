"""The stage that measures what quantization costs: the model beside itself in its own dtype, on golden inputs."""

import math
from typing import TYPE_CHECKING

import numpy as np

from aot.builder import identity, sources
from aot.builder.cache import Cache, Factors
from aot.builder.workers import Worker
from aot.bundle.loss import Loss
from aot.bundle.records import ArgumentRecord, WeightsRecord
from aot.runtime import exercise

if TYPE_CHECKING:
    from aot.builder.build import Report
    from aot.plan import Plan

_TOKENS = 256
"""Of the golden inputs that are taken: with a vocabulary of 150,000 their logits are 150 MB."""


def attachment(plan: "Plan", weights: WeightsRecord, report: "Report", cache: Cache | None = None) -> bytes | None:
    """What the quantized weights of a plan cost; None where none are, or where what they give is not finite."""
    if plan.model.quantization is None:
        return None
    factors = _factors(plan, weights)
    kept = None if cache is None else cache.read(factors)
    report.step("loss", None)
    if kept is not None:
        return kept.data or None
    with Worker() as worker:
        made: bytes | None = worker.request("loss", plan=plan.to_json())
    if cache is not None:
        cache.write(factors, None, made or b"")
    return made


def measured(plan: "Plan") -> bytes | None:
    """The same, in this process."""
    from aot.models import divergence
    from aot.models.language import LanguageModel

    model, (rows, width) = sources.model(plan), _shape(plan)
    assert isinstance(model, LanguageModel), model
    tokens = ArgumentRecord("tokens", "int32", (rows, width), (None, None))
    ids = exercise.values("tokens", tokens, model.config.decoder.vocab_size)
    found = divergence.measure(model, ids, exercise.lengths(rows, width))
    if not math.isfinite(found.nats):
        return None
    assert plan.model.quantization is not None, plan
    assert plan.model.dtype is not None, plan
    nats = max(0.0, float(np.float32(found.nats)))  # no less than nothing, and no digits that mean nothing
    return Loss(plan.model.quantization, plan.model.dtype, found.tokens, nats, found.alike).write()


def _factors(plan: "Plan", weights: WeightsRecord) -> Factors:
    """The checkpoint by what became of it: another one with the same integers, scales and norms is as good as it."""
    model = {"config": plan.model.config, "dtype": plan.model.dtype, "quantization": plan.model.quantization}
    return identity.loss({"model": model, "weights": [blob.digest for blob in weights.blobs], "shape": _shape(plan)})


def _shape(plan: "Plan") -> tuple[int, int]:
    """Rows and tokens a row: of the largest combo with so few tokens, else of the smallest."""
    shapes = sorted(
        ((c.batch_size, c.prefill_length or 1) for c in plan.combos), key=lambda shape: (math.prod(shape), shape)
    )
    return next((shape for shape in reversed(shapes) if math.prod(shape) <= _TOKENS), shapes[0])
