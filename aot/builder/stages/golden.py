"""The stage that runs what was built: golden outputs of each entry, from the cache or from a worker."""

from pathlib import Path
from typing import TYPE_CHECKING

from aot import digest
from aot.builder.reuse import identity
from aot.builder.reuse.cache import Cache
from aot.builder.tasks.golden import RecordGolden, place
from aot.builder.workers import Worker
from aot.bundle import store
from aot.golden import replay as golden

if TYPE_CHECKING:
    from aot.builder.report import Report


def outputs(sealed: Path, report: "Report", cache: Cache | None = None) -> bytes | None:
    """The golden outputs of a whole bundle, run as a user would run it; None where this machine runs none of it.

    One CPU gives the same bits in every run, so those of an entry that is made of the same may be kept ones.
    """
    bundle = store.open(sealed)
    factors = {i: identity.golden(found) for i, found in golden.golden_factors(bundle, place(bundle)).items()}
    found = {} if cache is None else {i: cache.read(named) for i, named in factors.items()}
    kept = {i: entry.data for i, entry in found.items() if entry is not None}
    lacking = sorted(factors.keys() - kept, reverse=True)  # the first of those that are made of the same
    missing = dict({digest.canonical_json(factors[i]): (i, factors[i]) for i in lacking}.values())
    with report.step("golden", len(kept) + len(missing), len(kept)) as progress:
        if not missing:
            return golden.record_golden(bundle, kept, place=place(bundle))
        with Worker() as worker:
            task = RecordGolden(sealed, kept, missing, None if cache is None else cache.root)
            return worker.request(task, progress)
