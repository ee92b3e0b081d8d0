"""The stage that measures what quantization costs: the model beside itself in its own dtype, on golden inputs."""

from typing import TYPE_CHECKING

from aot.builder.reuse import identity
from aot.builder.reuse.cache import Cache, Factors
from aot.builder.tasks.loss import MeasureLoss, golden_shape
from aot.builder.workers import Worker
from aot.bundle.index.records import WeightsRecord

if TYPE_CHECKING:
    from aot.builder.report import Report
    from aot.plan import Plan


def attachment(plan: "Plan", weights: WeightsRecord, report: "Report", cache: Cache | None = None) -> bytes | None:
    """What the quantized weights of a plan cost; None where none are, or where what they give is not finite."""
    if plan.model.quantization is None:
        return None
    factors = _factors(plan, weights)
    kept = None if cache is None else cache.read(factors)
    with report.step("loss", None):
        if kept is not None:
            return kept.data or None
        with Worker() as worker:
            made = worker.request(MeasureLoss(plan))
    if cache is not None:
        cache.write(factors, None, made or b"")
    return made


def _factors(plan: "Plan", weights: WeightsRecord) -> Factors:
    """The checkpoint by what became of it: another one with the same integers, scales and norms is as good as it."""
    model = {"config": plan.model.config, "dtype": plan.model.dtype, "quantization": plan.model.quantization}
    return identity.loss(
        {"model": model, "weights": [blob.digest for blob in weights.blobs], "shape": golden_shape(plan)}
    )
