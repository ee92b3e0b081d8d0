"""The process of an audit that builds again: one request in by standard input, what it built out by standard output.

Started by `aot.audit.audit` alone, in an environment of `aot.audit.environments`. It takes the part of the bundle that
is not asked for from the bundle itself, so that the index is whole; what was asked for it makes.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from aot import plan as plans
from aot.audit import compare, diff, environments, refresh, sides
from aot.audit.comparisons import Cause
from aot.audit.refresh import Part
from aot.builder import messages
from aot.builder.compiling import tuning
from aot.builder.lowering.lower import Lowered
from aot.builder.messages import Advanced, Begun, Failed
from aot.builder.pace import Progress
from aot.builder.report import Report
from aot.builder.stages import build, executables, provenance
from aot.builder.tasks.imports import Imported
from aot.builder.workers import Worker
from aot.bundle import store
from aot.bundle.index import codec
from aot.bundle.index.records import Index, WeightsRecord
from aot.bundle.store import Bundle
from aot.bundle.writer import Writer
from aot.errors import AotError
from aot.plan import Plan
from aot.targets import CudaTarget, Target


@dataclass(frozen=True)
class Request:
    """What to make again; paths are absolute."""

    manifest: Path
    inputs: Path
    """A directory with links to all that lies beside the manifest, in whose place it is used."""
    bundle: Path
    origin: Path | None
    """The bundle that it was refreshed from."""
    part: Part
    valid_until: str
    """The last day on which programs that the installed jax exports are read."""
    jobs: int
    cores: tuple[int, ...]
    staging: Path
    """A path in a directory of the process's own; nothing is left there."""


@dataclass(frozen=True)
class Rebuilt:
    """What was made, by what, and why it is not as it was."""

    index: bytes
    """As `aot.bundle.index.codec` writes it."""
    evidence: Imported
    causes: tuple[Cause, ...]


class Told:
    """A `Report` that the audit hears."""

    @contextlib.contextmanager
    def step(self, name: str, total: int | None, kept: int = 0) -> Iterator[Progress]:
        """A step, which ends where the next one begins."""
        tell(Begun(name, total, kept))
        yield lambda *part: tell(Advanced(*part))


def tell(message: Begun | Advanced | Rebuilt | Failed) -> None:
    """One message to the audit."""
    sys.stdout.buffer.write(messages.packed(message))
    sys.stdout.buffer.flush()


def main() -> None:
    """Answers one request."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # by which the audit ends us; a shell may have it ignored
    try:
        request = next(messages.received(sys.stdin.buffer, Request))
        environments.restrict(request.cores)
        tell(_rebuilt(request))
    except KeyboardInterrupt:
        sys.exit(130)
    except AotError as error:
        tell(Failed.by(error))
    except OSError as error:
        tell(Failed.by(AotError(f"audit: {error.filename or 'the rebuild'}: {error.strerror or error}")))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _rebuilt(request: Request) -> Rebuilt:
    """A bundle made again."""
    manifest = request.manifest
    plan = _moved(plans.resolve(plans.read_manifest(manifest)), manifest.parent.resolve(), request.inputs)
    part = request.part
    report = Told()
    with Writer.stage(request.staging) as writer:
        stored, evidence = store.open(request.bundle), provenance.Evidence(plan)
        weights = _laid_out(plan, writer, report, evidence) if part.weights else stored.index.weights
        if request.origin is None:
            made = _built(plan, request, writer, report, part, evidence)
        else:
            made = _refreshed(plan, request, writer, report, part)
        index = replace(build.build_index(plan, made, weights, writer, request.valid_until), origin=_digest(request))
        found = Imported(evidence.sources, tuple(sorted(evidence.wheels)))
        return Rebuilt(codec.encode(index), found, _causes(stored, index, writer, part))


def _laid_out(plan: Plan, writer: Writer, report: Report, evidence: provenance.Evidence) -> WeightsRecord:
    with report.step("weights", None) as progress, Worker() as worker:
        return build.laid_out(worker, plan, writer, progress, evidence)


def _causes(stored: Bundle, made: Index, writer: Writer, part: Part) -> tuple[Cause, ...]:
    """What made the rebuild differ from the bundle, as `aot diff` says it."""
    if all(verdict.same for verdict in compare.compare_indexes(stored.index, made, part)):
        return ()
    old, new = sides.of_bundle(stored), sides.of_writer(compare.part_of(made, part), writer)
    return diff.causes(replace(old, index=compare.part_of(stored.index, part), digest=None), new)


def _moved(plan: Plan, old: Path, new: Path) -> Plan:
    """The plan with what lies in one directory found in another."""
    model = plan.model
    paths = {"directory": model.directory, "checkpoint": model.checkpoint, "tokenizer": model.tokenizer}
    moved: dict[str, Any] = {
        name: new / path.relative_to(old)
        for name, path in paths.items()
        if path is not None and path.is_relative_to(old)
    }
    targets = tuple(_retuned(target, old, new) for target in plan.targets)
    return replace(plan, model=replace(model, **moved), targets=targets)


def _retuned(target: Target, old: Path, new: Path) -> Target:
    """The target with a tuning that lies in one directory found in another."""
    path = tuning.path(target)
    if not isinstance(target, CudaTarget) or path is None or not path.is_relative_to(old):
        return target
    return replace(target, tuning=str(new / path.relative_to(old)))


def _built(
    plan: Plan, request: Request, writer: Writer, report: Report, part: Part, evidence: provenance.Evidence
) -> Lowered:
    """Programs and executables, made as `aot build` makes them."""
    targets = part.targets(plan.targets)
    build.check_machine(targets)
    targets = tuning.stored_targets(targets, writer)
    made = build.lower_plan(plan, writer, report, part.key, evidence)
    return replace(made, programs=executables.compile_all(targets, made.programs, writer, request.jobs, report))


def _refreshed(plan: Plan, request: Request, writer: Writer, report: Report, part: Part) -> Lowered:
    """Programs and executables, made as `aot refresh` makes them."""
    assert request.origin is not None
    made, _ = refresh.refreshed_index(store.open(request.origin), plan, writer, request.jobs, report, part=part)
    return Lowered(**{field.name: getattr(made, field.name) for field in fields(Lowered)})


def _digest(request: Request) -> str | None:
    return None if request.origin is None else store.open(request.origin).digest


if __name__ == "__main__":
    main()
