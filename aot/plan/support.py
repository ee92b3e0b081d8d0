"""What a plan may say that this version does not build yet, each by name."""

import dataclasses
from collections.abc import Iterator

from aot.errors import ManifestError
from aot.plan.plan import Plan


def buildable(plan: Plan) -> None:
    """Raises ManifestError, a line for each thing in the plan that cannot be built yet."""
    if faults := tuple(f"manifest {plan.name!r}: {text}" for text in unsupported(plan)):
        raise ManifestError(*faults)


def unsupported(plan: Plan) -> tuple[str, ...]:
    """A line for each thing in the plan that cannot be built yet; none for a plan that can be built."""
    return tuple(_unsupported(plan))


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
    for place, target in enumerate(plan.targets):
        (platform, _), *_ = target.items()
        if platform != "cpu":
            yield f"targets[{place}]: {platform} executables cannot be built by this version, only cpu; leave it out"
