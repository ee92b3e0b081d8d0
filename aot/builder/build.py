"""The build: from a plan to a published bundle."""

import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from aot import isa, partition
from aot.builder import compile, provenance, releases, tokenizer
from aot.builder.workers import Worker
from aot.bundle import decoders, records, store
from aot.bundle.records import ExecutableRecord, Index, PartitionRecord, ProgramRecord
from aot.bundle.writer import Writer
from aot.errors import AotError, InputError, MachineError

if TYPE_CHECKING:
    from aot.builder.lower import Lowered
    from aot.plan import Plan

T = TypeVar("T")
Target = Mapping[str, Any]


class Report(Protocol):
    """Hears how a build goes on."""

    def step(self, name: str, total: int | None) -> None:
        """A step begins; `total` is the number of its parts, where that is known."""

    def advance(self, detail: str) -> None:
        """A part of the step is done, or begins where the total is unknown."""


@dataclass(frozen=True)
class Options:
    """Where a build goes and how it runs; nothing here changes a byte of it."""

    destination: Path
    replace: bool = False
    jobs: int = 1


def build(plan: "Plan", options: Options, report: Report) -> str:
    """Builds and publishes a bundle, and gives its digest.

    Raises InputError for what the plan names and for a destination that holds something else, AotError for what the
    machine refuses. Nothing is to be seen at the destination unless the build is whole.
    """
    from aot.plan import buildable

    buildable(plan)
    check_destination(options)
    check_machine(plan.targets)
    with Writer.stage(options.destination) as writer:
        evidence = provenance.Evidence(plan)
        weights = laid_out(plan, writer, report, evidence)  # what is wrong with them is known in seconds
        made = lowered(plan, writer, report, evidence=evidence)
        programs = compiled(plan.targets, made.programs, writer, options.jobs, report)
        index = indexed(plan, replace(made, programs=programs), weights, writer)
        attachments = about(plan, index, evidence, writer, report)
        report.step("publish", None)
        return writer.publish(index, options.replace, attachments)


def about(
    plan: "Plan", index: Index, evidence: provenance.Evidence, writer: Writer, report: Report
) -> dict[str, bytes]:
    """The attachments of what the writer holds: its provenance, and golden outputs where this machine can run it."""
    report.step("golden", None)
    made = {"provenance": provenance.statement(plan, index, writer.seal(index), evidence)}
    outputs = golden(writer.root, report)
    return made if outputs is None else {**made, "golden": outputs}


def golden(sealed: Path, report: Report) -> bytes | None:
    """The golden outputs of a whole bundle, run as a user would run it; None where this machine runs none of it."""
    with Worker() as worker:
        made: bytes | None = worker.request("golden", report.advance, bundle=str(sealed))
        return made


def count(plan: "Plan") -> Mapping[str, int]:
    """`programs` and `compiles` of a plan; nothing is lowered."""
    with Worker() as worker:
        counted: Mapping[str, int] = worker.request("count", plan=plan.to_json())
        return counted


def check_machine(targets: Iterable[Target]) -> None:
    """XLA compiles for no more than the machine has; less would be called what it is not. Raises MachineError."""
    for target in targets:
        baseline = isa.baseline(target["cpu"]["isa"])
        if lacking := isa.missing({"machine": baseline.machine, "features": baseline.kernel}, isa.machine()):
            raise MachineError(
                f"target cpu {baseline.name}: can only be built on a machine that has it, this one lacks "
                f"{', '.join(lacking[:4])}; build there, or choose another isa"
            )


def check_destination(options: Options) -> None:
    """Raises InputError where something else than a bundle would be in the way."""
    if options.replace or not os.path.lexists(options.destination):
        return
    try:
        store.open(options.destination)  # may turn out to be the same bundle
    except AotError as error:
        where = options.destination
        raise InputError(
            f"{where}: exists already and is no bundle; replace it with --replace or name another"
        ) from error


def lowered(
    plan: "Plan", writer: Writer, report: Report, key: str | None = None, evidence: provenance.Evidence | None = None
) -> "Lowered":
    """The programs of a plan, in the writer; with a key those of its combo alone."""
    from aot.builder.lower import Lowered

    report.step("lower", None)
    with Worker() as worker:
        raw = worker.request("lower", report.advance, plan=plan.to_json(), staging=str(writer.root), key=key)
        if evidence is not None:
            evidence.collect(worker)
    made = decoded(Lowered, raw)
    writer.include(records.BlobRecord(program.digest, program.bytes) for program in made.programs)
    return made


def compiled(
    targets: Sequence[Target], programs: tuple[ProgramRecord, ...], writer: Writer, jobs: int, report: Report
) -> tuple[ProgramRecord, ...]:
    """The programs of the writer with an executable for each target of their platform."""
    work = [(i, t) for t, target in enumerate(targets) for i, p in enumerate(programs) if p.platform in target]
    report.step("compile", len(work))
    made: dict[tuple[int, int], ExecutableRecord] = {}
    for t, target in enumerate(targets):
        wanted = [i for i, of in work if of == t]

        def compile_one(worker: Worker, i: int, target: Target = target) -> ExecutableRecord:
            task = {"program": programs[i].digest, "target": dict(target), "staging": str(writer.root)}
            record = decoded(ExecutableRecord, worker.request("compile", lambda _: None, **task))
            report.advance(programs[i].name)
            return record

        executables = _pooled(compile_one, wanted, jobs, compile.environment(target))
        made |= {(i, t): record for i, record in zip(wanted, executables, strict=True)}
    writer.include(records.BlobRecord(record.digest, record.bytes) for record in made.values())
    return tuple(
        replace(program, executables=tuple(made[i, t] for t in range(len(targets)) if (i, t) in made))
        for i, program in enumerate(programs)
    )


def _pooled(
    task: Callable[[Worker, int], ExecutableRecord], items: Iterable[int], jobs: int, variables: Mapping[str, str]
) -> list[ExecutableRecord]:
    """Runs a task for each item in as many workers as there are jobs; the first failure ends them all."""
    items = list(items)
    with ExitStack() as stack:
        idle: SimpleQueue[Worker] = SimpleQueue()
        for number in range(min(jobs, len(items))):
            idle.put(stack.enter_context(Worker({**variables, compile.CORE: str(os.getpid() + number)})))

        def run(item: int) -> ExecutableRecord:
            worker = idle.get()
            try:
                return task(worker, item)
            finally:
                idle.put(worker)

        pool = ThreadPoolExecutor(max(1, jobs))
        try:
            return list(pool.map(run, items))
        finally:
            stack.close()  # ends the workers, and with them whatever the pool still waits for
            pool.shutdown(cancel_futures=True)


def laid_out(
    plan: "Plan", writer: Writer, report: Report, evidence: provenance.Evidence | None = None
) -> records.WeightsRecord:
    """The weights of a plan's model, in the writer."""
    report.step("weights", None)
    with Worker() as worker:
        raw = worker.request("weights", report.advance, plan=plan.to_json(), staging=str(writer.root))
        if evidence is not None:
            evidence.collect(worker)
    weights = decoded(records.WeightsRecord, raw)
    writer.include(weights.blobs)
    return weights


def indexed(plan: "Plan", lowered: "Lowered", weights: records.WeightsRecord, writer: Writer) -> Index:
    """The index of all that was made; tokenizer files go into the writer."""
    rules = partition.ONE_DEVICE
    return Index(
        format=records.FORMAT,
        valid_until=releases.valid_until(lowered.versions["jax"]),
        origin=None,
        versions=lowered.versions,
        settings=lowered.settings,
        model=_model(plan),
        generation=_generation(plan),
        partition=PartitionRecord({}, rules, partition.resolve(rules, weights.arrays)),
        waivers=plan.allow_custom_calls,
        combos=tuple(records.ComboRecord(combo.key, combo.dimensions()) for combo in plan.combos),
        phases=lowered.phases,
        programs=lowered.programs,
        bindings=lowered.bindings,
        entries=lowered.entries,
        weights=weights,
        tokenizer={name: writer.add(data) for name, data in tokenizer.files(plan.model.tokenizer).items()},
    )


def _model(plan: "Plan") -> Mapping[str, Any]:
    source = plan.model
    if source.factory is not None:
        return {"factory": source.factory, "arguments": source.arguments}
    return {"config": source.config, "dtype": source.dtype}


def _generation(plan: "Plan") -> records.GenerationRecord | None:
    made = plan.generation
    if made is None:
        return None
    return records.GenerationRecord(**{**vars(made), "sampling": vars(made.sampling)})


def decoded(cls: type[T], raw: Any) -> T:
    """A record as a worker gave it."""
    (record,) = decoders.of(cast(Hashable, cls))([raw])
    made: T = record
    return made
