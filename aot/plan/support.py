"""What a plan may say that this version does not build yet, each by name."""

from collections.abc import Iterator

from aot.errors import ManifestError
from aot.plan.plan import Plan


def buildable(plan: Plan) -> None:
    """Raises ManifestError, a line for each thing in the plan that cannot be built yet."""
    if faults := tuple(f"manifest {plan.name!r}: {text}" for text in _unsupported(plan)):
        raise ManifestError(*faults)


def _unsupported(plan: Plan) -> Iterator[str]:
    if plan.model.quantization is not None:
        yield f"model.quantization: {plan.model.quantization!r} cannot be built by this version; leave it out"
    if any(combo.vision_included for combo in plan.combos):
        yield "precompile.vision_included: true cannot be built by this version; set it to false"
    if plan.partition is not None:
        yield "partition: cannot be built by this version, which serves on one device; leave it out"
    for place, target in enumerate(plan.targets):
        (platform, options), *_ = target.items()
        if platform != "cpu":
            yield f"targets[{place}]: {platform} executables cannot be built by this version, only cpu; leave it out"
        elif several := sorted(options.keys() & {"devices", "mesh"}):
            yield f"targets[{place}].cpu.{several[0]}: cannot be built by this version, which serves on one device"
