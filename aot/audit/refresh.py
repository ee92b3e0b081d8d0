"""Renewing a bundle: its programs exported anew by the installed jax, its executables compiled anew from those.

Weights, tokenizer and all that was planned stay as they are, so a bundle is enough for it, as long as the installed
jax still takes its programs. Where it does not, the manifest is lowered again, onto the weights of the bundle.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aot import digest
from aot.builder import settings
from aot.builder.compiling import tuning
from aot.builder.report import Report
from aot.builder.reuse.cache import Cache
from aot.builder.stages import build, executables, reexport, releases
from aot.builder.stages.releases import Release
from aot.builder.tasks.golden import ReplayGolden
from aot.builder.workers import Worker
from aot.bundle import store, verified
from aot.bundle.index import records
from aot.bundle.index.records import Index, ProgramRecord
from aot.bundle.store import Bundle
from aot.bundle.writer import Writer
from aot.errors import DifferenceError, InputError
from aot.golden import expected
from aot.targets import Target

if TYPE_CHECKING:
    from aot.builder.lowering.lower import Lowered
    from aot.plan import Plan


@dataclass(frozen=True)
class Refreshed:
    """What `refresh` made."""

    digest: str
    source: str
    """What the programs were exported from: `bundle` or `manifest`."""
    valid_until: str
    compared: int
    """Entries whose golden outputs were compared: those that the old bundle has and this machine runs as built."""
    largest_difference: float | None
    """Between golden outputs and those of the new programs, as `aot verify --run` has it."""


@dataclass(frozen=True)
class Part:
    """What of a bundle is made: all of it, or programs and executables of one key, executables of one platform."""

    key: str | None = None
    platform: str | None = None
    executables: bool = True

    @property
    def weights(self) -> bool:
        """Whether weights are made, which no key and no program has to itself."""
        return self.executables and self.key is None

    def targets(self, given: Iterable[Target]) -> tuple[Target, ...]:
        """The targets for which executables are made."""
        return tuple(t for t in given if self.executables and self.platform in (None, t.platform))


WHOLE = Part()


def refresh(
    path: Path, plan: "Plan | None", release: Release, options: build.Options, report: Report
) -> Refreshed:  # fmt: skip
    """Publishes a bundle with the programs of another, exported by the installed jax, and gives its digest.

    Raises ExpiredError and InputError for a release of jax that gains no time, InputError where it refuses a program
    and there is no manifest, DifferenceError where golden inputs give other results than were recorded; nothing is
    written then.
    """
    place = options.place()
    old = store.open(path)
    _check_gain(old, release)
    place.expect(origin=old.digest, valid_until=release.valid_until, weights=old.index.weights)
    (store.sound if verified.known(path, old.index.weights) else store.verify)(path)
    with Writer.stage(options.destination) as writer:
        found, source = refreshed_index(old, plan, writer, options.jobs, report, options.cache)
        index = replace(found, origin=old.digest, valid_until=release.valid_until)
        kept = {kind: data for kind in ("golden", "loss") if (data := old.attachment(kind)) is not None}
        made = writer.seal(index, kept)
        differences = _differences(old, writer, report)
        with report.step("publish", None):
            options.place()  # it may have come in the meantime
            writer.show(made, options.replace or options.force)
    return Refreshed(made, source, index.valid_until, len(differences), max(differences, default=None))


def refreshed_index(
    old: Bundle,
    plan: "Plan | None",
    writer: Writer,
    jobs: int,
    report: Report,
    cache: Cache | None = None,
    part: Part = WHOLE,
) -> tuple[Index, str]:
    """The index of a bundle with new programs and executables, its blobs in the writer; and what those came from."""
    targets = part.targets(targets_of(old.index))
    build.check_machine(targets)
    writer.adopt(old)
    base, source = _exported(old, plan, writer, report, part)
    programs = executables.compile_all(targets, base.programs, writer, jobs, report, cache)
    return replace(base, programs=programs), source


def _check_gain(old: Bundle, release: Release) -> None:
    """Raises ExpiredError or InputError where the programs of a release would be readable no day longer."""
    releases.check_in_time(release)
    if release.valid_until <= old.index.valid_until:
        raise InputError(
            f"bundle {old.path}: its programs are readable until {old.index.valid_until}, and those of "
            f"jax {release.version} until {release.valid_until}; {releases.newer(release)}"
        )


def _differences(old: Bundle, writer: Writer, report: Report) -> list[float]:
    """Between golden outputs of the old bundle and what the new one gives. Raises DifferenceError beyond tolerance."""
    golden = old.attachment("golden")
    if golden is None:
        return []
    recorded, _ = expected.read_golden(golden, f"bundle {old.path}: golden outputs")
    with report.step("golden", len(recorded)) as progress, Worker() as worker:
        replayed = worker.request(ReplayGolden(writer.root, golden), progress)
    if wrong := [entry for entry in replayed if entry.verdict == "differs"]:
        first = wrong[0]
        raise DifferenceError(
            f"refresh: {len(wrong)} of {len(replayed)} entries give other results than were recorded, first "
            f"{first.phase} of {first.combo_key[:12]}…: {first.cause}; nothing was written; report it"
        )
    return [entry.difference for entry in replayed if entry.difference is not None]


def targets_of(index: Index) -> tuple[Target, ...]:
    """The targets for which a bundle has executables, with their tunings."""
    made = (tuning.with_tuning(e.built_for, e.tuning) for program in index.programs for e in program.executables)
    return tuple({digest.canonical_json(target.plain()): target for target in made}.values())


def _exported(old: Bundle, plan: "Plan | None", writer: Writer, report: Report, part: Part) -> tuple[Index, str]:
    """The index with new programs and without executables."""
    wanted = _wanted(old.index, part)
    made = reexport.programs([old.index.programs[i] for i in wanted], old.index.waivers, writer, report)
    if made.refused is None:
        return _exchanged(old.index, dict(zip(wanted, made.programs, strict=True)), made.versions, part), "bundle"
    if plan is None:
        raise InputError(
            f"bundle {old.path}: jax {made.versions['jax']} does not take {made.refused}; give its manifest, to lower "
            "it again: --manifest M"
        )
    return _lowered(old, build.lower_plan(plan, writer, report, part.key), plan), "manifest"


def _wanted(index: Index, part: Part) -> list[int]:
    """Positions of the programs of a key, or of all."""
    entries = [e for e in index.entries if part.key in (None, index.combos[e.combo].key)]
    return sorted({position for entry in entries for chain in entry.chains for position, _ in chain.calls})


def _exchanged(old: Index, made: Mapping[int, ProgramRecord], versions: Mapping[str, str], part: Part) -> Index:
    """The index with other programs, and of the entries those of the part."""
    place = {before: now for now, before in enumerate(made)}
    entries = []
    for entry in old.entries:
        if part.key in (None, old.combos[entry.combo].key):
            chains = tuple(
                replace(chain, calls=tuple((place[program], binding) for program, binding in chain.calls))
                for chain in entry.chains
            )
            entries.append(replace(entry, chains=chains))
    return replace(
        old, programs=tuple(made.values()), entries=tuple(entries), versions=versions, settings=settings.LOWERING
    )


def _lowered(old: Bundle, made: "Lowered", plan: "Plan") -> Index:
    """The index with the programs of the manifest, which must be that of the bundle."""
    combos = tuple(records.ComboRecord(combo.key, combo.dimensions()) for combo in plan.combos)
    if combos != old.index.combos:
        raise InputError(
            f"bundle {old.path}: the manifest {plan.name!r} has other combos; give the one it was built from"
        )
    fields = ("programs", "bindings", "phases", "entries", "versions", "settings")
    return replace(old.index, **{name: getattr(made, name) for name in fields})
