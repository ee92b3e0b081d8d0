"""Runs the entries of a bundle, in a worker: for golden outputs, and to hold those of another bundle to them."""

from pathlib import Path

from aot.builder import pace
from aot.builder.reuse.cache import Cache, Factors
from aot.bundle import store
from aot.bundle.store import Bundle
from aot.golden import expected, replay
from aot.runtime.fitting import entries
from aot.runtime.fitting.entries import Entry
from aot.runtime.place import Place

Kept = list[tuple[int, bytes]]
Missing = list[tuple[int, Factors]]
"""Entries by position: of kept ones what was made of them, of missing ones the factors to keep it by."""


def run_missing(
    sealed: Path, kept: Kept, missing: Missing, progress: pace.Progress, cache: Cache | None
) -> bytes | None:
    """Runs the entries that are missing, in this process; each is in the cache as soon as it has run."""
    named, told = dict(missing), _Told(progress, len(missing))

    def take(position: int, entry: Entry, data: bytes) -> None:
        if cache is not None:
            cache.write(named[position], None, data)
        told.of(entry)

    bundle = store.open(sealed)
    return replay.record_golden(bundle, dict(kept), take, place(bundle))


def replayed(sealed: Path, data: bytes, progress: pace.Progress) -> tuple[replay.Replayed, ...]:
    """Runs golden outputs of another bundle with the same entries once more, in this process."""
    bundle = store.open(sealed)
    recorded, _ = expected.read_golden(data, "golden outputs")
    return replay.replay_golden(bundle, data, _Told(progress, len(recorded)).of, place(bundle))


def place(bundle: Bundle) -> Place:
    """Where golden outputs are made: on the CPU, as they must not depend on a GPU of the building machine."""
    return entries.find_place(bundle.index, platform=entries.PLATFORM)


class _Told:
    """Tells of entries that have run, all of which are reckoned to take as long."""

    def __init__(self, progress: pace.Progress, count: int) -> None:
        self._progress, self._clock = progress, pace.Pace(count)

    def of(self, entry: Entry) -> None:
        self._progress(f"{entry.phase}, combo {entry.combo_key[:12]}", self._clock.left(1))
