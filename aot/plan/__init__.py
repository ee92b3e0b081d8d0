"""Makes a plan of a manifest: `plan.resolve(plan.read(path))`."""

from aot.plan.manifests.manifest import Manifest, read
from aot.plan.padding import waste
from aot.plan.plan import GenerationPlan, ModelPlan, Plan
from aot.plan.resolve import resolve
from aot.plan.support import uninstalled, untuned
from aot.plan.tokens import endings
from aot.plan.weights import family, has_weights, stored

__all__ = [
    "Manifest",
    "read",
    "resolve",
    "Plan",
    "ModelPlan",
    "GenerationPlan",
    "waste",
    "endings",
    "uninstalled",
    "untuned",
    "stored",
    "family",
    "has_weights",
]
