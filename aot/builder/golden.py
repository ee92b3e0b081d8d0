"""The stage that runs what was built: golden outputs of each entry, from the cache or from a worker."""

from pathlib import Path
from typing import TYPE_CHECKING

from aot import digest
from aot.builder import identity, pace
from aot.builder.cache import Cache, Factors
from aot.builder.workers import Worker
from aot.bundle import store
from aot.bundle.store import Bundle
from aot.runtime import entries, expected, golden
from aot.runtime.client import Place
from aot.runtime.entries import Entry

if TYPE_CHECKING:
    from aot.builder.build import Report

Kept = list[tuple[int, bytes]]
Missing = list[tuple[int, Factors]]
"""By the positions of entries: what was made of them, by what it is to be kept."""


def outputs(sealed: Path, report: "Report", cache: Cache | None = None) -> bytes | None:
    """The golden outputs of a whole bundle, run as a user would run it; None where this machine runs none of it.

    One CPU gives the same bits in every run, so those of an entry that is made of the same may be kept ones.
    """
    bundle = store.open(sealed)
    factors = {i: identity.golden(found) for i, found in golden.factors(bundle, _place(bundle)).items()}
    found = {} if cache is None else {i: cache.read(named) for i, named in factors.items()}
    kept = [(i, entry.data) for i, entry in found.items() if entry is not None]
    lacking = sorted(factors.keys() - dict(kept), reverse=True)  # the first of those that are made of the same
    missing = list({digest.canonical_json(factors[i]): (i, factors[i]) for i in lacking}.values())
    report.step("golden", len(kept) + len(missing), len(kept))
    if not missing:
        return golden.record(bundle, dict(kept), place=_place(bundle))
    with Worker() as worker:
        task = {"bundle": str(sealed), "kept": kept, "missing": missing}
        root = None if cache is None else str(cache.root)
        made: bytes | None = worker.request("golden", report.advance, **task, cache=root)
    return made


def write(sealed: Path, kept: Kept, missing: Missing, progress: pace.Progress, cache: Cache | None) -> bytes | None:
    """Runs the entries that are missing, in this process; each is in the cache as soon as it has run."""
    named, told = dict(missing), _Told(progress, len(missing))

    def take(position: int, entry: Entry, data: bytes) -> None:
        if cache is not None:
            cache.write(named[position], None, data)
        told.of(entry)

    bundle = store.open(sealed)
    return golden.record(bundle, dict(kept), take, _place(bundle))


def replayed(sealed: Path, data: bytes, progress: pace.Progress) -> tuple[golden.Replayed, ...]:
    """Runs golden outputs of another bundle with the same entries once more, in this process."""
    bundle = store.open(sealed)
    recorded, _ = expected.read(data, "golden outputs")
    return golden.replay(bundle, data, _Told(progress, len(recorded)).of, _place(bundle))


def _place(bundle: Bundle) -> Place:
    """On the CPU, as workers have no other device: golden outputs must not depend on a GPU of the building machine."""
    return entries.place(bundle.index, platform=entries.PLATFORM)


class _Told:
    """Tells of entries that have run, all of which are reckoned to take as long."""

    def __init__(self, progress: pace.Progress, count: int) -> None:
        self._progress, self._clock = progress, pace.Pace(count)

    def of(self, entry: Entry) -> None:
        self._progress(f"{entry.phase}, combo {entry.key[:12]}", self._clock.left(1))
