"""What a plan may say that this version, or this environment, does not build, each by name."""

import dataclasses
from collections.abc import Iterator

from aot import extras
from aot.errors import ManifestError
from aot.plan.plan import Plan


def buildable(plan: Plan) -> None:
    """Raises ManifestError, a line for each thing in the plan that cannot be built yet."""
    if faults := tuple(f"manifest {plan.name!r}: {text}" for text in unsupported(plan)):
        raise ManifestError(*faults)


def unsupported(plan: Plan) -> tuple[str, ...]:
    """A line for each thing in the plan that cannot be built yet; none for a plan that can be built."""
    return tuple(_unsupported(plan))


def uninstalled(plan: Plan) -> tuple[str, ...]:
    """A line for each target whose compiler is not installed."""
    lacking = ((place, platform, extras.missing(platform)) for place, (platform,) in enumerate(plan.targets))
    return tuple(f"targets[{place}]: {platform}: {text}" for place, platform, text in lacking if text)


def countable(plan: Plan) -> tuple[Plan, tuple[str, ...]]:
    """The part of a plan whose programs this version can tell, and what it leaves out, in words.

    No program for images.
    """
    combos = tuple(combo for combo in plan.combos if not combo.vision_included)
    number = len(plan.combos) - len(combos)
    left_out = (f"{number} of {len(plan.combos)} combos, those with vision",) if number else ()
    return dataclasses.replace(plan, combos=combos), left_out


def _unsupported(plan: Plan) -> Iterator[str]:
    if any(combo.vision_included for combo in plan.combos):
        yield "precompile.vision_included: true cannot be built by this version; set it to false"
