"""What a plan may say that this version does not build yet, each by name."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

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

    No program of a partitioned model, none for images and none that is compiled for several devices.
    """
    if plan.partition is not None:
        return dataclasses.replace(plan, combos=()), ("the programs of a partitioned model",)
    combos = tuple(combo for combo in plan.combos if not combo.vision_included)
    targets = tuple(target for target in plan.targets if not _several(target))
    counts = {
        "combos, those with vision": (plan.combos, combos),
        "targets, those of several devices": (plan.targets, targets),
    }
    left_out = tuple(
        f"{len(given) - len(kept)} of {len(given)} {what}"
        for what, (given, kept) in counts.items()
        if len(kept) < len(given)
    )
    return dataclasses.replace(plan, combos=combos, targets=targets), left_out


def _unsupported(plan: Plan) -> Iterator[str]:
    if any(combo.vision_included for combo in plan.combos):
        yield "precompile.vision_included: true cannot be built by this version; set it to false"
    if plan.partition is not None:
        yield "partition: cannot be built by this version, which serves on one device; leave it out"
    for place, target in enumerate(plan.targets):
        (platform, _), *_ = target.items()
        if platform != "cpu":
            yield f"targets[{place}]: {platform} executables cannot be built by this version, only cpu; leave it out"
        elif several := _several(target):
            yield f"targets[{place}].cpu.{several[0]}: cannot be built by this version, which serves on one device"


def _several(target: Mapping[str, Any]) -> list[str]:
    """The options by which a target has several devices."""
    (options,) = target.values()
    return sorted(options.keys() & {"devices", "mesh"})
