"""Makes a plan of a manifest: `plan.resolve(plan.read(path))`."""

from aot.plan.manifests.manifest import Manifest, read_manifest
from aot.plan.padding import waste
from aot.plan.plan import GenerationPlan, ModelPlan, Plan
from aot.plan.resolve import resolve
from aot.plan.support import uninstalled, untuned
from aot.plan.tokens import endings
from aot.plan.weights import family, has_weights, weight_bytes

__all__ = [
    "Manifest",
    "read_manifest",
    "resolve",
    "Plan",
    "ModelPlan",
    "GenerationPlan",
    "waste",
    "endings",
    "uninstalled",
    "untuned",
    "weight_bytes",
    "family",
    "has_weights",
]
