"""What a plan asks for that this environment cannot build, by name."""

from aot import extras
from aot.plan.plan import Plan


def uninstalled(plan: Plan) -> tuple[str, ...]:
    """A line for each target whose compiler is not installed."""
    lacking = ((place, platform, extras.missing(platform)) for place, (platform,) in enumerate(plan.targets))
    return tuple(f"targets[{place}]: {platform}: {text}" for place, platform, text in lacking if text)
