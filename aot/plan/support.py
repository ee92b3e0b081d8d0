"""What a plan asks for that cannot be built here, or not yet, by name."""

from pathlib import Path

from aot import extras, tuning
from aot.plan.plan import Plan


def uninstalled(plan: Plan) -> tuple[str, ...]:
    """A line for each target whose compiler is not installed."""
    lacking = ((place, platform, extras.missing_extra(platform)) for place, (platform,) in enumerate(plan.targets))
    return tuple(f"targets[{place}]: {platform}: {text}" for place, platform, text in lacking if text)


def untuned(plan: Plan) -> tuple[str, ...]:
    """A line for each target whose tuning is not there yet."""
    named = ((place, Path(o["tuning"])) for place, t in enumerate(plan.targets) for o in t.values() if "tuning" in o)
    return tuple(f"targets[{n}]: cuda: {path} is not there; {tuning.ADVICE}" for n, path in named if not path.exists())
