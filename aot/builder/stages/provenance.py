"""What a bundle was built from and by what: an in-toto statement (v1) with a SLSA provenance predicate (v1).

It holds no clock, host, user or absolute path: two builds of the same inputs by the same tools give the same bytes.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot import digest, extras
from aot.builder import installed
from aot.builder.compiling import tuning
from aot.builder.stages import tokenizer
from aot.builder.stages.releases import Release
from aot.builder.tasks.imports import Imported, ListImports
from aot.builder.workers import Worker
from aot.bundle import statement as statements
from aot.bundle.index.records import Index
from aot.targets import Target

if TYPE_CHECKING:
    from aot.plan import Plan

BUILDER = "pkg:pypi/jax-aot"
BUILD_TYPE = f"{BUILDER}#build/v1"

WHEELS = ("flax", "jax", "jaxlib", "ml_dtypes", "numpy", "orbax-checkpoint", "safetensors", "tensorstore")
_ELSEWHERE = ("checkpoint", "tokenizer", "directory", "sources")
"""What of a plan's model are paths, or is among the dependencies."""


class Evidence:
    """What the workers of a build had imported: a user's model source, and wheels that are recorded where used."""

    def __init__(self, plan: "Plan") -> None:
        self._plan = plan
        self.sources: dict[str, str] = {}
        self.wheels: set[str] = set()

    def collect(self, worker: Worker) -> None:
        """Asks a worker after it has done its task."""
        self.add(worker.request(ListImports(self._plan)))

    def add(self, found: Imported) -> None:
        """Takes what a worker told."""
        self.sources |= found.sources
        self.wheels |= set(found.wheels)


def statement(
    plan: "Plan",
    release: Release,
    index: Index,
    name: str,
    evidence: Evidence,
    hashed: Mapping[str, str] | None = None,
) -> bytes:
    """The statement about the bundle of this digest, built with a release of jax, as canonical JSON.

    `hashed` are the digests of the checkpoint's files; without them, they are hashed here.
    """
    if hashed is None:
        hashed = {name: digest.of_file(path) for name, path in checkpoint_files(plan).items()}
    return digest.canonical_json(
        {
            "_type": statements.TYPE,
            "subject": statements.subjects(name, (combo.key for combo in index.combos)),
            "predicateType": statements.PREDICATE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {"manifest": plan_document(plan), **_stated(release)},
                    "internalParameters": {"settings": index.settings, "flags": _flags(index)},
                    "resolvedDependencies": [*_dependencies(plan, evidence, hashed), *_tunings(index)],
                },
                "runDetails": {"builder": {"id": BUILDER}},
            },
        }
    )


def plan_document(plan: "Plan") -> dict[str, Any]:
    """All that a plan says, as JSON can, without the places where its files lie."""
    return {
        **vars(plan),
        "model": {name: value for name, value in vars(plan.model).items() if name not in _ELSEWHERE},
        "combos": [combo.dimensions() for combo in plan.combos],
        "generation": None if plan.generation is None else dataclasses.asdict(plan.generation),
        "targets": [_target(tuning.without(target)) for target in plan.targets],
        "partition": None if plan.partition is None else _with_pairs(plan.partition),
    }


def _target(target: Target) -> dict[str, Any]:
    return {kind: _with_pairs(options) for kind, options in target.plain().items()}


def _with_pairs(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with their mesh as pairs: the order of its axes is that of the devices, and JSON's names are sorted."""
    mesh = options.get("mesh")
    return {**options, "mesh": list(map(list, mesh.items()))} if mesh else dict(options)


def _stated(release: Release) -> dict[str, str]:
    """The day of a release that we were told, and could not know."""
    return {"jax_released": release.day.isoformat()} if release.stated else {}


def _flags(index: Index) -> list[str]:
    """XLA's options of all executables."""
    return sorted({flag for program in index.programs for e in program.executables for flag in e.flags})


def _dependencies(plan: "Plan", evidence: Evidence, hashed: Mapping[str, str]) -> Iterator[installed.Resource]:
    yield {"uri": BUILDER, **_sources("aot", installed.own())}
    compilers = {name for target in plan.targets for name in extras.compiler_wheels(target.platform)}
    converters = tokenizer.converter_wheels(plan.model.tokenizer)
    yield from filter(None, map(installed.wheel, sorted({*WHEELS, *evidence.wheels, *compilers, *converters})))
    if plan.model.factory is not None:
        yield _sources("model", evidence.sources)
    files = {**plan.model.sources, **{f"checkpoint/{name}": found for name, found in hashed.items()}}
    tokenizers = {f"tokenizer/{name}": digest.of_file(path) for name, path in _tokenizer(plan)}
    for name, of in (*sorted(files.items()), *tokenizers.items()):
        yield {"name": name, "digest": {"sha256": digest.hex_of(of)}}


def _tunings(index: Index) -> Iterator[installed.Resource]:
    named = {(e.built_for.name, e.tuning.digest) for p in index.programs for e in p.executables if e.tuning}
    for device, name in sorted(named):
        yield {"name": f"tuning/{device}", "digest": {"sha256": digest.hex_of(name)}}


def _sources(name: str, files: Mapping[str, str]) -> installed.Resource:
    return {"name": name, "digest": {"dirHash": installed.dir_hash(files)}, "annotations": {"files": files}}


def checkpoint_files(plan: "Plan") -> dict[str, Path]:
    """The files that a checkpoint's weights lie in, by their places in it; what else lies there is not read."""
    from aot.models.checkpoints import checkpoint

    directory = plan.model.checkpoint
    if directory is None:
        return {}
    if checkpoint.checkpoint_kind(directory) == "orbax":
        found = (Path(folder, name) for folder, _, names in os.walk(directory, followlinks=True) for name in names)
    else:
        found = (directory / name for name in checkpoint.weight_files(directory))
    return {path.relative_to(directory).as_posix(): path for path in found if path.is_file()}


def _tokenizer(plan: "Plan") -> Iterable[tuple[str, Path]]:
    return tokenizer.tokenizer_sources(plan.model.tokenizer)
