"""The build: from a plan to a published bundle."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from aot.builder import compile, executables, identity, provenance, releases, tokenizer
from aot.builder.cache import Cache
from aot.builder.workers import Worker, decoded
from aot.bundle import records, store, verified
from aot.bundle.records import Index
from aot.bundle.writer import Writer
from aot.errors import AotError, InputError

if TYPE_CHECKING:
    from aot.builder.lower import Counted, Lowered
    from aot.plan import Plan

Target = Mapping[str, Any]


class Report(Protocol):
    """Hears how a build goes on."""

    def step(self, name: str, total: int | None, kept: int = 0) -> None:
        """A step begins; `total` is the number of its parts, where that is known, `kept` come from the cache."""

    def advance(self, detail: str, left: float | None = None) -> None:
        """A part of the step is done, or begins where the total is unknown; the rest takes `left` seconds."""


@dataclass(frozen=True)
class Options:
    """Where a build goes and how it runs; nothing here changes a byte of it."""

    destination: Path
    replace: bool = False
    jobs: int = 1
    cache: Cache | None = None
    """What earlier builds made; without one, all is made anew."""


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
        made = lowered(plan, writer, report, evidence=evidence, cache=options.cache)
        programs = executables.compiled(plan.targets, made.programs, writer, options.jobs, report, options.cache)
        index = indexed(plan, replace(made, programs=programs), weights, writer)
        attachments = about(plan, index, evidence, writer, report, options.cache)
        report.step("publish", None)
        digest = writer.publish(index, options.replace, attachments)
    verified.remember(options.destination, weights)
    return digest


def about(
    plan: "Plan",
    index: Index,
    evidence: provenance.Evidence,
    writer: Writer,
    report: Report,
    cache: Cache | None = None,
) -> dict[str, bytes]:
    """The attachments of what the writer holds: its provenance, and golden outputs where this machine can run it."""
    report.step("golden", None)
    name = writer.seal(index)
    made = {"provenance": provenance.statement(plan, index, name, evidence)}
    outputs = golden(writer.root, name, report, cache)
    return made if outputs is None else {**made, "golden": outputs}


def golden(sealed: Path, name: str, report: Report, cache: Cache | None = None) -> bytes | None:
    """The golden outputs of a whole bundle, run as a user would run it; None where this machine runs none of it.

    One CPU gives the same bits in every run, so those of the same bundle on the same kind of CPU may be kept ones.
    """
    factors = identity.golden(name)
    if cache is not None and (kept := cache.read(factors)):
        return kept.data
    with Worker() as worker:
        made: bytes | None = worker.request("golden", report.advance, bundle=str(sealed))
    if cache is not None and made is not None:
        cache.write(factors, None, made)
    return made


def count(plan: "Plan") -> "Counted":
    """The programs and compiles of a plan, and what it asks of each device; nothing is lowered."""
    from aot.builder.lower import Counted

    with Worker() as worker:
        return decoded(Counted, worker.request("count", plan=plan.to_json()))


def check_machine(targets: Iterable[Target]) -> None:
    """Raises InputError or MachineError where this machine cannot compile for one of the targets."""
    for target in targets:
        compile.check(target)


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
    plan: "Plan",
    writer: Writer,
    report: Report,
    key: str | None = None,
    evidence: provenance.Evidence | None = None,
    cache: Cache | None = None,
) -> "Lowered":
    """The programs of a plan, in the writer; with a key those of its combo alone. Without a cache each is lowered."""
    from aot.builder.lower import Lowered

    report.step("lower", None)
    with Worker() as worker:
        task = {"plan": plan.to_json(), "staging": str(writer.root), "key": key}
        raw = worker.request("lower", report.advance, **task, cache=None if cache is None else str(cache.root))
        if evidence is not None:
            evidence.collect(worker)
    made = decoded(Lowered, raw)
    writer.include(records.BlobRecord(program.digest, program.bytes) for program in made.programs)
    return made


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
    return Index(
        format=records.FORMAT,
        valid_until=releases.valid_until(lowered.versions["jax"]),
        origin=None,
        versions=lowered.versions,
        settings=lowered.settings,
        model=_model(plan),
        generation=_generation(plan),
        rules={} if plan.partition is None else {n: v for n, v in plan.partition.items() if n != "mesh"},
        partitions=lowered.partitions,
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
    quantization = {} if source.quantization is None else {"quantization": source.quantization}
    return {"config": source.config, "dtype": source.dtype, **quantization}


def _generation(plan: "Plan") -> records.GenerationRecord | None:
    made = plan.generation
    if made is None:
        return None
    return records.GenerationRecord(**{**vars(made), "sampling": vars(made.sampling)})
