"""The stage that exports stored programs anew with the installed jax, from their StableHLO alone."""

from collections.abc import Sequence

from aot.builder.report import Report
from aot.builder.tasks.reexport import Reexport, Reexported
from aot.builder.workers import Worker
from aot.bundle.index import records
from aot.bundle.index.records import ProgramRecord
from aot.bundle.writer import Writer


def programs(
    given: Sequence[ProgramRecord], waivers: Sequence[str], writer: Writer, report: Report
) -> Reexported:  # fmt: skip
    """Exports programs that are in the writer anew, in a process of their own."""
    with report.step("export", len(given)) as progress, Worker() as worker:
        made = worker.request(Reexport(tuple(given), tuple(waivers), writer.root), progress)
    writer.include(records.BlobRecord(record.digest, record.bytes) for record in made.programs)
    return made
