"""The process of an audit that builds again: one request in, the index of what it built out.

Started by `aot.audit.audit` alone, in an environment of `aot.audit.environments`. It takes the part of the bundle that
is not asked for from the bundle itself, so that the index is whole; what was asked for it makes.
"""

import json
import os
import signal
import sys
import traceback
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from aot import plan as plans
from aot.audit import compare, diff, environments, refresh, sides
from aot.audit.comparisons import Cause
from aot.audit.refresh import Part
from aot.builder.compiling import tuning
from aot.builder.lowering.lower import Lowered
from aot.builder.report import Report
from aot.builder.stages import build, executables, provenance
from aot.bundle import store
from aot.bundle.index import codec
from aot.bundle.index.records import Index
from aot.bundle.store import Bundle
from aot.bundle.writer import Writer
from aot.errors import AotError
from aot.plan import Plan
from aot.targets import CudaTarget, Target


@dataclass(frozen=True)
class Request:
    """What to make again; paths are absolute."""

    manifest: str
    inputs: str
    """A directory with links to all that lies beside the manifest, in whose place it is used."""
    bundle: str
    origin: str | None
    """The bundle that it was refreshed from."""
    key: str | None
    platform: str | None
    executables: bool
    valid_until: str
    """The last day on which programs that the installed jax exports are read."""
    jobs: int
    cores: tuple[int, ...]
    staging: str
    """A path in a directory of the process's own; nothing is left there."""

    def to_json(self) -> str:
        """The request as one argument of a command line."""
        return json.dumps(asdict(self))


class Told:
    """A `Report` that the audit hears, a line of JSON each."""

    def step(self, name: str, total: int | None, kept: int = 0) -> None:
        """A step begins."""
        tell("step", [name, total, kept])

    def advance(self, detail: str, left: float | None = None, total: int | None = None) -> None:
        """A part of the step is done."""
        tell("advance", [detail, left, total])


def tell(kind: str, content: Any) -> None:
    """One line to the audit."""
    sys.stdout.write(json.dumps([kind, content]) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Answers the request in the first argument."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # by which the audit ends us; a shell may have it ignored
    try:
        request = Request(**json.loads(sys.argv[1]))
        environments.restrict(request.cores)
        tell("index", codec.encode(_rebuilt(request)).hex())
    except KeyboardInterrupt:
        sys.exit(130)
    except AotError as error:
        tell("error", [type(error).__name__, str(error)])
    except OSError as error:
        tell("error", ["AotError", f"audit: {error.filename or 'the rebuild'}: {error.strerror or error}"])
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _rebuilt(request: Request) -> Index:
    """The index of a bundle made again; what it was made from, and why it differs, are told before."""
    manifest = Path(request.manifest)
    plan = _moved(plans.resolve(plans.read_manifest(manifest)), manifest.parent.resolve(), Path(request.inputs))
    part = Part(request.key, request.platform, request.executables)
    report = Told()
    with Writer.stage(Path(request.staging)) as writer:
        stored, evidence = store.open(Path(request.bundle)), provenance.Evidence(plan)
        weights = build.laid_out(plan, writer, report, evidence) if part.weights else stored.index.weights
        if request.origin is None:
            made = _built(plan, request, writer, report, part, evidence)
        else:
            made = _refreshed(plan, request, writer, report, part)
        index = replace(build.build_index(plan, made, weights, writer, request.valid_until), origin=_digest(request))
        tell("evidence", {"sources": evidence.sources, "wheels": sorted(evidence.wheels)})
        tell("causes", [vars(cause) for cause in _causes(stored, index, writer, part)])
        return index


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
    made, _ = refresh.refreshed_index(store.open(Path(request.origin)), plan, writer, request.jobs, report, part=part)
    return Lowered(**{field.name: getattr(made, field.name) for field in fields(Lowered)})


def _digest(request: Request) -> str | None:
    return None if request.origin is None else store.open(Path(request.origin)).digest


if __name__ == "__main__":
    main()
