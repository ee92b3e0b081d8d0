"""What a plan asks for that cannot be built here, or not yet, by name."""

from pathlib import Path

from aot import extras, tuning
from aot.plan.plan import Plan
from aot.targets import CudaTarget


def uninstalled(plan: Plan) -> tuple[str, ...]:
    """A line for each target whose compiler is not installed."""
    lacking = ((place, t.platform, extras.missing_extra(t.platform)) for place, t in enumerate(plan.targets))
    return tuple(f"targets[{place}]: {platform}: {text}" for place, platform, text in lacking if text)


def untuned(plan: Plan) -> tuple[str, ...]:
    """A line for each target whose tuning is not there yet."""
    targets = ((place, target) for place, target in enumerate(plan.targets) if isinstance(target, CudaTarget))
    named = ((place, Path(target.tuning)) for place, target in targets if isinstance(target.tuning, str))
    return tuple(f"targets[{n}]: cuda: {path} is not there; {tuning.ADVICE}" for n, path in named if not path.exists())
