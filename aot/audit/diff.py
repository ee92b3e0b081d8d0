"""Why two bundles differ: the factors that do, in the order in which causes act, and not what follows from them."""

from collections.abc import Iterator
from dataclasses import replace

from aot.audit import comparisons, factors, matching, sides
from aot.audit.comparisons import Cause, Pair
from aot.bundle.index.records import Index

_WHICH = {"precompile config", "platforms"}
"""Factors that decide which programs there are, and nothing in a program that both sides have."""
_RENEWED = {
    *("format", "jax", "jaxlib", "compiler", "validity", "origin", "flags", "settings"),
    *("calling contracts", "StableHLO", "executables"),
}
"""Factors that refreshing a bundle changes."""


def causes(a: sides.Side, b: sides.Side) -> tuple[Cause, ...]:
    """What made two sides differ, in the order in which causes act; empty for equal bundles."""
    if a.digest == b.digest and a.digest is not None:
        return ()
    pair = Pair.of(a, b)
    if refreshed := _refreshed(pair):
        others = comparisons.compared(pair, _RENEWED)
        return _sorted([refreshed, *(cause for cause in others if not cause.detail.startswith("requires of "))])
    found = _with_programs(comparisons.compared(pair), pair)
    return _sorted(found or _in_another_order(pair))


def declared(a: Index, b: Index) -> tuple[Cause, ...]:
    """What made two indexes with the same blobs differ, as far as they say it."""
    return _sorted(comparisons.compared(Pair.of(sides.of_index(a), sides.of_index(b))))


def _sorted(found: list[Cause]) -> tuple[Cause, ...]:
    order = [factor.name for factor in factors.FACTORS]
    return tuple(sorted(found, key=lambda cause: order.index(cause.factor)))


def _refreshed(pair: Pair) -> Cause | None:
    """The cause that one side was refreshed from the other: its programs, its executables and their versions follow."""
    a, b = pair.sides
    for old, new, how in ((a, b, "the second was refreshed from the first"), (b, a, "the first from the second")):
        if old.digest is not None and new.index.origin == old.digest:
            was, now = (f"jax {side.index.versions.get('jax')}, {side.index.valid_until}" for side in (old, new))
            return Cause("origin", pair.a.origin, pair.b.origin, f"{how}: {was}; now {now}")
    return None


def _in_another_order(pair: Pair) -> list[Cause]:
    """For factors that have the same in another order; the order of executables only a whole build can tell."""
    whole = None not in (pair.sides[0].digest, pair.sides[1].digest)
    built = (f for f in factors.FACTORS if f.name in pair.changed and (whole or f.name != "executables"))
    return [Cause(f.name, f.value(pair.a), f.value(pair.b), "in another order") for f in built]


def _with_programs(found: list[Cause], pair: Pair) -> list[Cause]:
    """Adds what no factor so far explains in the programs and executables that both sides have."""
    matched = matching.Matched(*pair.sides)
    differing = matched.differing()
    deciding = [c for c in found if "program" in factors.named(c.factor).enters and c.factor not in _WHICH]
    if not deciding:
        contracts = [
            Cause("calling contracts", *rest) for rest in matched.contracts("precompile config" in pair.changed)
        ]
        texts = [Cause("StableHLO", *rest) for rest in matched.texts()]
        evidence = list(_evidence(pair.sides)) if texts or contracts else []
        found = [*found, *evidence, *contracts, *texts]
    elif differing:
        said = f"explains {len(differing)} of {len(matched.programs)} programs that differ"
        found = [_noted(cause, said) if cause is deciding[0] else cause for cause in found]
    return [*found, *(Cause("executables", *rest) for rest in matched.executables())]


def _noted(cause: Cause, text: str) -> Cause:
    return replace(cause, detail="; ".join(filter(None, (cause.detail, text))))


def _evidence(both: tuple[sides.Side, sides.Side]) -> Iterator[Cause]:
    """Source files and wheels that the provenance of both names and that differ."""
    a, b = (side.evidence for side in both)
    if a and b and (names := sorted(n for n in a.keys() | b.keys() if a.get(n) != b.get(n))):
        yield comparisons.among(names, "model source", a, b, comparisons.listed(names))
