"""The build: from a plan to a published bundle."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot import devices, digest, sampling
from aot.builder import messages
from aot.builder.compiling import compile, tuning
from aot.builder.lowering import footprint
from aot.builder.lowering.lower import Counted, Lowered
from aot.builder.pace import Progress
from aot.builder.report import Report
from aot.builder.reuse.cache import Cache
from aot.builder.stages import executables, golden, loss, provenance, tokenizer
from aot.builder.stages.destination import Destination
from aot.builder.stages.releases import Release
from aot.builder.tasks.files import HashFiles
from aot.builder.tasks.programs import Count, Lower
from aot.builder.tasks.weights import WriteWeights
from aot.builder.workers import Worker
from aot.bundle import store, verified
from aot.bundle.index import records
from aot.bundle.index.records import Index, ProgramRecord
from aot.bundle.store import Bundle
from aot.bundle.writer import Writer
from aot.errors import AotError
from aot.targets import Target

if TYPE_CHECKING:
    from aot.plan import Plan


@dataclass(frozen=True)
class Options:
    """Where a build goes and how it runs; nothing here changes a byte of it."""

    destination: Path
    replace: bool = False
    """Whether a bundle that is there already may be replaced."""
    force: bool = False
    """Whether anything that is there already may be replaced."""
    jobs: int = 1
    cache: Cache | None = None
    """What earlier builds made; without one, all is made anew."""

    def place(self) -> Destination:
        """The destination, as it is now. Raises InputError where something is in the way."""
        return Destination.of(self.destination, self.replace, self.force)


def build(plan: "Plan", release: Release, options: Options, report: Report) -> str:
    """Builds and publishes a bundle with the installed jax, which is of this release, and gives its digest.

    Raises InputError for what the plan names and for a destination that holds something else, AotError for what the
    machine refuses. Nothing is to be seen at the destination unless the build is whole.
    """
    place = options.place()
    place.expect(**planned(plan, release.valid_until))
    check_machine(plan.targets)
    with Writer.stage(options.destination) as writer, ThreadPoolExecutor(1) as beside:
        evidence = provenance.Evidence(plan)
        made, weights = _made(plan, writer, options, report, place, evidence, beside)
        index = build_index(plan, made, weights, writer, release.valid_until)
        name = writer.seal(index)
        with Worker() as hashing:
            hashed = beside.submit(_settled, plan, hashing, writer)
            outputs = golden.outputs(writer.root, report, options.cache)
            cost = loss.attachment(plan, weights, report, options.cache)
            options.place()  # it may have come in the meantime
            with report.step("publish", None):
                statement = provenance.statement(plan, release, index, name, evidence, hashed.result())
                attachments = {"provenance": statement, "golden": outputs, "loss": cost}
                said = {kind: data for kind, data in attachments.items() if data is not None}
                writer.publish(index, options.replace or options.force, said)
    verified.remember(options.destination, weights)
    return name


def _made(
    plan: "Plan",
    writer: Writer,
    options: Options,
    report: Report,
    place: Destination,
    evidence: provenance.Evidence,
    beside: ThreadPoolExecutor,
) -> tuple[Lowered, records.WeightsRecord]:
    """Programs with executables, and weights: laid out while programs are lowered, each compiled once it is there.

    Whatever fails first ends all of it.
    """
    targets = tuning.stored_targets(plan.targets, writer)
    with Worker() as laying, executables.Compiler(targets, writer, options.jobs, options.cache) as compiler:

        def lay_out() -> records.WeightsRecord:
            try:
                with step, laying:
                    weights = laid_out(laying, plan, writer, progress, evidence, _old(options))
                    place.expect(weights=weights)
            except BaseException as error:
                compiler.fail(error)
                raise
            return weights

        step = ExitStack()  # begun here, so that steps are told of in one order, and left where the weights are there
        progress = step.enter_context(report.step("weights", None))
        weights = beside.submit(lay_out)
        if place.bundle is None:
            made = lower_plan(plan, writer, report, evidence=evidence, take=compiler.add, cache=options.cache)
        else:  # which may prove to be another one by its weights, and by its programs
            weights.result()
            made = lower_plan(plan, writer, report, evidence=evidence, cache=options.cache)
        place.expect_programs(made.programs, targets)
        for program in made.programs:
            compiler.add(program)
        programs = compiler.finish(made.programs, report)
        return replace(made, programs=programs), weights.result()


def _settled(plan: "Plan", worker: Worker, writer: Writer) -> dict[str, str]:
    """The digests of the checkpoint's files, which is read once more; what is staged is on the disk by then."""
    writer.sync_blobs()
    files = provenance.checkpoint_files(plan)
    digests = worker.request(HashFiles(tuple(files.values())))
    return dict(zip(files, digests, strict=True))


def count_plan(plan: "Plan", progress: Progress = lambda *_: None) -> Counted:
    """The programs and compiles of a plan, and what it asks of each device; nothing is lowered.

    `progress` hears of each combo.
    """
    with Worker() as worker:
        return worker.request(Count(plan), progress)


def fullness(plan: "Plan") -> tuple[str, ...]:
    """A line for each target whose devices weights and state nearly fill. Raises ManifestError where they do not fit.

    Nothing is counted where no target says how much memory its devices have.
    """
    if all(devices.device_memory(target) is None for target in plan.targets):
        return ()
    return tuple(footprint.nearly_full(plan.targets, count_plan(plan).footprints))


def check_machine(targets: Iterable[Target]) -> None:
    """Raises InputError or MachineError where this machine cannot compile for one of the targets."""
    for target in targets:
        compile.check_target(target)


def lower_plan(
    plan: "Plan",
    writer: Writer,
    report: Report,
    key: str | None = None,
    evidence: provenance.Evidence | None = None,
    take: Callable[[ProgramRecord], None] = lambda _: None,
    cache: Cache | None = None,
) -> Lowered:
    """The programs of a plan, in the writer; with a key those of its combo alone. Without a cache each is lowered.

    `take` gets each as soon as it is there, perhaps several times.
    """
    with report.step("lower", None) as progress, Worker() as worker:
        task = Lower(plan, writer.root, key, None if cache is None else cache.root)
        made = worker.request(task, progress, lambda part: take(messages.read(ProgramRecord, part)))
        if evidence is not None:
            evidence.collect(worker)
    writer.include(records.BlobRecord(program.digest, program.bytes) for program in made.programs)
    return made


def laid_out(
    worker: Worker,
    plan: "Plan",
    writer: Writer,
    progress: Progress,
    evidence: provenance.Evidence | None = None,
    old: Bundle | None = None,
) -> records.WeightsRecord:
    """The weights of a plan's model, in the writer; where an old bundle has the very same, its files are shared."""
    task = WriteWeights(plan, writer.root, None if old is None else old.index.weights)
    weights = worker.request(task, progress)
    if evidence is not None:
        evidence.collect(worker)
    if old is not None and weights == old.index.weights:
        writer.share(old, weights.blobs)
        verified.remember(old.path, weights)  # a link is a change of the file
    writer.include(weights.blobs)
    return weights


def _old(options: Options) -> Bundle | None:
    """The bundle at the destination, where its weights are known to be whole and may be used again."""
    if options.cache is None:
        return None
    try:
        found = store.open(options.destination)
    except AotError:
        return None
    return found if verified.known(found.path, found.index.weights) else None


def build_index(
    plan: "Plan", lowered: Lowered, weights: records.WeightsRecord, writer: Writer, valid_until: str
) -> Index:  # fmt: skip
    """The index of all that was made; tokenizer files go into the writer."""
    for data in tokenizer.tokenizer_blobs(plan.model.tokenizer).values():
        writer.add(data)
    return Index(_format(plan, lowered), **planned(plan, valid_until), **vars(lowered), weights=weights)


def planned(plan: "Plan", valid_until: str) -> dict[str, Any]:
    """The fields of the index that are known before anything is made."""
    from aot.plan import images

    files = tokenizer.tokenizer_blobs(plan.model.tokenizer)
    return {
        "valid_until": valid_until,
        "origin": None,
        "model": _model(plan),
        "generation": _generation(plan),
        "images": images.images_of(plan),
        "rules": {} if plan.partition is None else {n: v for n, v in plan.partition.items() if n != "mesh"},
        "waivers": plan.allow_custom_calls,
        "combos": tuple(records.ComboRecord(combo.key, combo.dimensions()) for combo in plan.combos),
        "tokenizer": {name: records.BlobRecord(digest.digest_of(data), len(data)) for name, data in files.items()},
    }


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
    plain = {name: value for name, value in vars(made).items() if name != "restrictions"}
    return records.GenerationRecord(**{**plain, "sampling": sampling.record_sampling(made.sampling, made.restrictions)})


def _format(plan: "Plan", lowered: "Lowered") -> int:
    """The oldest version of the format that can say what the index has to."""
    if any(chain.repeat is not None for entry in lowered.entries for chain in entry.chains):
        return records.REPEATED
    restricted = plan.generation is not None and plan.generation.restrictions != sampling.Restrictions()
    return records.RESTRICTED if restricted else 1
