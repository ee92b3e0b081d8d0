"""The two things that are compared: a bundle, or what a build of a plan would make, found without compiling."""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from aot import digest
from aot.builder.compiling import compile, tuning
from aot.builder.report import Report
from aot.builder.stages import build, executables
from aot.builder.stages.releases import Release
from aot.builder.tasks.weights import MeasureWeights
from aot.builder.workers import Worker
from aot.bundle import statement, weights
from aot.bundle.index.records import ExecutableRecord, Index, ProgramRecord
from aot.bundle.store import Bundle
from aot.bundle.writer import Writer
from aot.targets import Target

if TYPE_CHECKING:
    from aot.plan import Plan

UNKNOWN = ""
"""The digest of an executable that was not compiled."""


@dataclass(frozen=True)
class Side:
    """One of two things that are compared."""

    index: Index
    digest: str | None
    """The bundle's digest; None for one that is not built."""
    program: Callable[[ProgramRecord], bytes]
    weight: Callable[[str], str]
    """The digest of a weight's own bytes, by path."""
    provenance: statement.Statement | None = None
    """The statement that is attached to the bundle, if one is."""

    @cached_property
    def evidence(self) -> dict[str, str]:
        """Digests of source files and versions of wheels: what may lie behind a difference in a factor."""
        found: dict[str, str] = {}
        for item in () if self.provenance is None else statement.dependencies(self.provenance):
            files = item.get("annotations", {}).get("files")
            if files is not None:
                found |= {f"{item['name']}/{name}": value for name, value in files.items()}
            elif item.get("uri", "").startswith("pkg:"):
                found[item["name"]] = f"{item['uri']} {item['digest']}"
        return found


def of_bundle(bundle: Bundle) -> Side:
    """A bundle; its blobs are read when they are asked for. Raises BundleError for a provenance of something else."""
    return Side(
        bundle.index,
        bundle.digest,
        lambda record: bundle.read(record.digest, record.bytes),
        lambda path: _weight(bundle.index, path, bundle.map, f"bundle {bundle.path}: weights"),
        statement.read_statement(bundle),
    )


def of_index(index: Index) -> Side:
    """An index alone, of whose blobs no more than their digests is known."""
    return Side(index, None, lambda record: b"", lambda path: UNKNOWN)


def of_writer(index: Index, writer: Writer) -> Side:
    """A bundle in the making."""
    place = f"{writer.root}: weights"
    return Side(
        index, None, lambda record: writer.read(record.digest), lambda path: _weight(index, path, writer.map, place)
    )


@contextlib.contextmanager
def of_plan(plan: "Plan", release: Release, report: Report) -> Iterator[Side]:
    """What a build of the plan would make: weights are hashed, programs lowered into a directory that does not stay."""
    with tempfile.TemporaryDirectory(prefix="aot-") as home, Writer.stage(Path(home, "preview")) as writer:
        with report.step("weights", None) as progress, Worker() as worker:
            measured = worker.request(MeasureWeights(plan), progress)
        lowered = build.lower_plan(plan, writer, report)
        targets = tuning.stored_targets(plan.targets, writer)
        programs = tuple(_with_targets(program, targets) for program in lowered.programs)
        index = build.build_index(
            plan, replace(lowered, programs=programs), measured.record, writer, release.valid_until
        )
        yield Side(index, None, lambda record: writer.read(record.digest), measured.digests.__getitem__)


def _with_targets(program: ProgramRecord, targets: Iterable[Target]) -> ProgramRecord:
    mine = [target for target in targets if executables.is_for(program, target)]
    return replace(program, executables=tuple(map(_uncompiled, mine)))


def _uncompiled(target: Target) -> ExecutableRecord:
    """All that is known of an executable before it is there."""
    known = compile.flags(target), compile.compiler(target), compile.requires(target)
    return ExecutableRecord(tuning.without(target).plain(), UNKNOWN, 0, *known, {}, {}, tuning.tuning_blob(target))


def _weight(index: Index, path: str, map: Callable[[str, int], memoryview], place: str) -> str:
    record = index.weights.arrays[path]
    blob = index.weights.blobs[record.blob]
    view = map(blob.digest, blob.bytes)
    tensor = weights.Tensor(path, *weights.tensor_table(view, place)[path])
    return digest.digest_of(view[tensor.offset : tensor.offset + tensor.size])
