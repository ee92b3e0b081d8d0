"""What a bundle was built from and by what: an in-toto statement (v1) with a SLSA provenance predicate (v1).

It holds no clock, host, user or absolute path: two builds of the same inputs by the same tools give the same bytes.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot import digest, extras
from aot.builder import installed
from aot.builder.compiling import tuning
from aot.builder.stages import tokenizer
from aot.builder.stages.releases import Release
from aot.builder.workers import Worker
from aot.bundle import statement as statements
from aot.bundle.index.records import Index

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
        self.add(worker.request("imported", plan=self._plan.to_json()))

    def add(self, found: Mapping[str, Any]) -> None:
        """Takes what `imported` gave."""
        self.sources |= found["sources"]
        self.wheels |= set(found["wheels"])


def statement(plan: "Plan", release: Release, index: Index, name: str, evidence: Evidence) -> bytes:
    """The statement about the bundle of this digest, built with a release of jax, as canonical JSON."""
    return digest.canonical_json(
        {
            "_type": statements.TYPE,
            "subject": statements.subjects(name, (combo.key for combo in index.combos)),
            "predicateType": statements.PREDICATE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {"manifest": _manifest(plan), **_stated(release)},
                    "internalParameters": {"settings": index.settings, "flags": _flags(index)},
                    "resolvedDependencies": [*_dependencies(plan, evidence), *_tunings(index)],
                },
                "runDetails": {"builder": {"id": BUILDER}},
            },
        }
    )


def _manifest(plan: "Plan") -> dict[str, Any]:
    """The plan as canonical JSON has it, without the places where its files lie."""
    plain = json.loads(plan.to_json())
    model = {name: value for name, value in plain["model"].items() if name not in _ELSEWHERE}
    return {**plain, "model": model, "targets": list(map(tuning.without, plain["targets"]))}


def _stated(release: Release) -> dict[str, str]:
    """The day of a release that we were told, and could not know."""
    return {"jax_released": release.day.isoformat()} if release.stated else {}


def _flags(index: Index) -> list[str]:
    """XLA's options of all executables."""
    return sorted({flag for program in index.programs for e in program.executables for flag in e.flags})


def _dependencies(plan: "Plan", evidence: Evidence) -> Iterator[installed.Resource]:
    yield {"uri": BUILDER, **_sources("aot", installed.own())}
    compilers = {name for target in plan.targets for name in extras.compiler_wheels(next(iter(target)))}
    converters = tokenizer.converter_wheels(plan.model.tokenizer)
    yield from filter(None, map(installed.wheel, sorted({*WHEELS, *evidence.wheels, *compilers, *converters})))
    if plan.model.factory is not None:
        yield _sources("model", evidence.sources)
    files = {**plan.model.sources, **{f"checkpoint/{name}": digest.of_file(path) for name, path in _weights(plan)}}
    tokenizers = {f"tokenizer/{name}": digest.of_file(path) for name, path in _tokenizer(plan)}
    for name, of in (*sorted(files.items()), *tokenizers.items()):
        yield {"name": name, "digest": {"sha256": digest.hex_of(of)}}


def _tunings(index: Index) -> Iterator[installed.Resource]:
    named = {(e.target["cuda"]["device"], e.tuning.digest) for p in index.programs for e in p.executables if e.tuning}
    for device, name in sorted(named):
        yield {"name": f"tuning/{device}", "digest": {"sha256": digest.hex_of(name)}}


def _sources(name: str, files: Mapping[str, str]) -> installed.Resource:
    return {"name": name, "digest": {"dirHash": installed.dir_hash(files)}, "annotations": {"files": files}}


def _weights(plan: "Plan") -> Iterable[tuple[str, Path]]:
    """The files that a checkpoint's weights lie in; what else lies beside them is not read."""
    from aot.models.checkpoints import checkpoint

    directory = plan.model.checkpoint
    if directory is None:
        return
    if checkpoint.checkpoint_kind(directory) == "orbax":
        found = (Path(folder, name) for folder, _, names in os.walk(directory, followlinks=True) for name in names)
    else:
        found = (directory / name for name in checkpoint.weight_files(directory))
    yield from ((path.relative_to(directory).as_posix(), path) for path in found if path.is_file())


def _tokenizer(plan: "Plan") -> Iterable[tuple[str, Path]]:
    return tokenizer.tokenizer_sources(plan.model.tokenizer)
