"""The audit: a bundle is made again in fresh processes, each in another environment, and compared entry by entry."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aot import closest
from aot import plan as plans
from aot.audit import compare, environments
from aot.audit.compare import Verdict
from aot.audit.comparisons import Cause
from aot.audit.environments import Environment
from aot.audit.rebuild import Rebuilt, Request
from aot.audit.refresh import WHOLE, Part
from aot.builder import messages
from aot.builder.compiling import emulation
from aot.builder.messages import Advanced, Begun, Failed
from aot.builder.pace import Progress
from aot.builder.report import Report
from aot.builder.stages import provenance
from aot.builder.stages.releases import Release
from aot.bundle import statement, store
from aot.bundle.index import codec, records
from aot.bundle.index.records import Index
from aot.bundle.store import Bundle
from aot.errors import AotError, InputError
from aot.plan import Plan


@dataclass(frozen=True)
class Audit:
    """What an audit found, a list of verdicts for each environment."""

    environments: tuple[Environment, ...]
    verdicts: tuple[tuple[Verdict, ...], ...]
    causes: tuple[Cause, ...]
    """What made the rebuilds differ, as `aot diff` says it."""

    @property
    def same(self) -> bool:
        """Whether all of it was reproduced."""
        return all(verdict.same for verdicts in self.verdicts for verdict in verdicts)

    @property
    def entries(self) -> int:
        """How many entries were compared, in each environment."""
        return len({(v.key, v.phase) for verdicts in self.verdicts for v in verdicts if v.key is not None})

    def plain(self) -> dict[str, Any]:
        """The values that JSON can hold."""
        rows = [
            {
                "round": environment.round,
                "key": v.key,
                "phase": v.phase,
                "kind": v.kind,
                "verdict": "same" if v.same else "differs",
                "cause": v.cause,
            }
            for environment, verdicts in zip(self.environments, self.verdicts, strict=True)
            for v in verdicts
        ]
        causes = [vars(cause) for cause in self.causes]
        environments = [environment.plain() for environment in self.environments]
        return {"same": self.same, "environments": environments, "entries": rows, "causes": causes}


@dataclass(frozen=True)
class _Made:
    """What a rebuild tells."""

    index: Index
    evidence: provenance.Evidence
    causes: tuple[Cause, ...]


@dataclass(frozen=True)
class Options:
    """What is compared, and how often."""

    part: Part = WHOLE
    rounds: int = 1
    origin: Path | None = None
    """The bundle that a refreshed one was made from."""
    cpu: str | None = None
    """What to rebuild on, emulated, by QEMU's name."""


def audit(path: Path, manifest: Path, release: Release, options: Options, report: Report) -> Audit:
    """Makes the bundle again from its manifest by the installed jax, once for each round, and compares.

    Raises InputError for a manifest that cannot be built, for a refreshed bundle without the one that it was made from
    and for a CPU that cannot be emulated, BundleError for a damaged one. No build cache is read or written.
    """
    bundle = store.open(path)
    stated = statement.read_statement(bundle)
    options = replace(options, part=_whole_key(bundle, options.part))
    _check_origin(bundle, options.origin)
    if options.cpu is not None:
        emulation.check_emulator(options.cpu)
    plan = plans.resolve(plans.read_manifest(manifest))  # what is wrong with it is known in seconds
    _check_bytes(bundle, options.part)
    tried = tuple(environments.environment_of(number, options.cpu) for number in range(1, options.rounds + 1))
    verdicts, causes = [], []
    for environment in tried:
        with report.step(f"round {environment.round}", None):
            made = _rebuilt(bundle, manifest, plan, release, options, environment, report)
        found = compare.compare_indexes(bundle.index, made.index, options.part)
        if stated is not None and options.part == WHOLE:
            again = provenance.statement(plan, release, made.index, bundle.digest, made.evidence)
            found = (*found, compare.provenance(stated, json.loads(again)))
        verdicts.append(found)
        causes += [cause for cause in made.causes if cause not in causes]
    return Audit(tried, tuple(verdicts), tuple(causes))


def _whole_key(bundle: Bundle, part: Part) -> Part:
    """The part, whose key may have been named by its first digits."""
    keys = [combo.key for combo in bundle.index.combos]
    try:
        return part if part.key is None else replace(part, key=closest.find_combo_key(part.key, keys))
    except InputError as error:
        raise InputError(f"bundle {bundle.path}: {error}; it has {', '.join(keys[:4])}") from None


def _check_origin(bundle: Bundle, origin: Path | None) -> None:
    recorded = bundle.index.origin
    if recorded is None and origin is not None:
        raise InputError(f"bundle {bundle.path}: was built, not refreshed; leave out --from {origin}")
    if recorded is not None and origin is None:
        raise InputError(f"bundle {bundle.path}: was refreshed from {recorded}; name that bundle with --from OLD")
    if origin is not None and (found := store.open(origin)).digest != recorded:
        raise InputError(
            f"--from {origin}: is {found.digest}, and {bundle.path} was refreshed from {recorded}; name that"
        )
    if origin is not None:
        store.verify(origin)


def _check_bytes(bundle: Bundle, part: Part) -> None:
    """A digest in the index speaks for bytes only if the blob has it."""
    if part == WHOLE:
        store.verify(bundle.path)
        return
    left_out = {role for role, kept in (("weights", part.weights), ("executable", part.executables)) if not kept}
    for name in {name for _, role, name, _ in records.stored_blobs(bundle.index) if role not in left_out}:
        bundle.check(name)


def _rebuilt(
    bundle: Bundle, manifest: Path, plan: Plan, release: Release, options: Options, environment: Environment,
    report: Report,
) -> _Made:  # fmt: skip
    with tempfile.TemporaryDirectory(prefix=f"aot-audit-{environment.round}-") as scratch:
        home = Path(scratch)
        (home / "inputs").mkdir()
        for path in manifest.parent.resolve().iterdir():
            (home / "inputs" / path.name).symlink_to(path)
        request = Request(
            manifest=manifest.absolute(),
            inputs=home / "inputs",
            bundle=bundle.path.resolve(),
            origin=None if options.origin is None else options.origin.resolve(),
            part=options.part,
            valid_until=release.valid_until,
            jobs=environment.jobs,
            cores=environment.cores,
            staging=home / "bundle",
        )
        process = environment.start(home, "aot.audit.rebuild", [])
        with _ending(process):
            _ask(process, request)
            return _answer(process, provenance.Evidence(plan), (home / "inputs", manifest.parent), report)


@contextlib.contextmanager
def _ending(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Lets a process clean up if we leave before it is done: its workers end with it."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        raise
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _ask(process: "subprocess.Popen[bytes]", request: Request) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:  # of one that has ended its status tells
        process.stdin.write(messages.packed(request))


def _answer(
    process: "subprocess.Popen[bytes]", evidence: provenance.Evidence, inputs: tuple[Path, Path], report: Report
) -> _Made:
    """What the process made, once it has told all. Raises the AotError that it raised."""
    assert process.stdout is not None
    progress: Progress | None = None
    with contextlib.ExitStack() as step:
        for message in messages.received(process.stdout, Begun, Advanced, Rebuilt, Failed):
            match message:
                case Rebuilt(index, found, causes):
                    evidence.add(found)
                    return _Made(codec.decode_part(index, "audit: the rebuild"), evidence, causes)
                case Failed(error, text):
                    raise Failed(error, text.replace(str(inputs[0]), str(inputs[1]))).raised()
                case Begun(name, total, kept):
                    step.close()
                    progress = step.enter_context(report.step(name, total, kept))
                case Advanced(detail, left, total):
                    assert progress is not None, detail
                    progress(detail, left, total)
    raise AotError(f"audit: the rebuild ended with status {process.wait()}; its last words are above")
