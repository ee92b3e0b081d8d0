"""Runs the entries of a bundle, in a worker: for golden outputs, and to hold those of another bundle to them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aot.builder import pace
from aot.builder.reuse.cache import Cache, Factors
from aot.builder.tasks.task import Task
from aot.bundle import store
from aot.bundle.store import Bundle
from aot.golden import expected, replay
from aot.runtime.fitting import entries
from aot.runtime.fitting.entries import Entry
from aot.runtime.place import Place


@dataclass(frozen=True)
class RecordGolden(Task[bytes | None]):
    """Runs the entries of a sealed bundle of which no golden outputs are kept."""

    name = "golden"

    bundle: Path
    kept: Mapping[int, bytes]
    """What was made of entries before, by their position."""
    missing: Mapping[int, Factors]
    """The factors to keep entries by that are to run, by their position."""
    cache: Path | None

    def perform(self, progress: pace.Progress) -> bytes | None:
        """The golden outputs of all; None where this machine runs none of them."""
        return run_missing(
            self.bundle, self.kept, self.missing, progress, None if self.cache is None else Cache(self.cache)
        )


@dataclass(frozen=True)
class ReplayGolden(Task[tuple[replay.Replayed, ...]]):
    """Runs golden outputs of another bundle once more, by a bundle with the same entries."""

    name = "replay"

    bundle: Path
    golden: bytes

    def perform(self, progress: pace.Progress) -> tuple[replay.Replayed, ...]:
        """What became of each entry's."""
        return replayed(self.bundle, self.golden, progress)


def run_missing(
    sealed: Path,
    kept: Mapping[int, bytes],
    missing: Mapping[int, Factors],
    progress: pace.Progress,
    cache: Cache | None,
) -> bytes | None:
    """Runs the entries that are missing, in this process; each is in the cache as soon as it has run."""
    told = _Told(progress, len(missing))

    def take(position: int, entry: Entry, data: bytes) -> None:
        if cache is not None:
            cache.write(missing[position], None, data)
        told.of(entry)

    bundle = store.open(sealed)
    return replay.record_golden(bundle, kept, take, place(bundle))


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
