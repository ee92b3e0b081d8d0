"""Builds never repeat work: what the cache gives is what a build without it makes, and only what is missing is made."""

import dataclasses
import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import toy
from places import TINY
from reports import Heard

from aot import digest
from aot import plan as plans
from aot.builder.reuse import cache
from aot.builder.stages import build, executables, golden
from aot.builder.tasks import golden as golden_task
from aot.builder.workers import Worker
from aot.bundle import store, verified
from aot.bundle.index import codec
from aot.bundle.index.records import WeightsRecord
from aot.bundle.writer import Writer
from aot.cli import main
from aot.golden import exercise


@dataclass(frozen=True)
class Built:
    """What a build printed, and the bundle."""

    digest: str
    compile: str
    golden: str
    """The lines of these steps."""
    said: list[str]
    """Lines that are no steps."""
    bundle: Path


@pytest.fixture
def making(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Built]:
    """Builds a manifest with a cache of this name beside it."""

    def get(manifest: Path, name: str, *options: str, cached: str = "cache") -> Built:
        monkeypatch.setenv("AOT_CACHE_DIR", str(manifest.parent / cached))
        bundle = manifest.parent / name
        code = main.run(["build", str(manifest), "-o", str(bundle), "--json", *options])
        out, err = capfd.readouterr()
        assert code == 0, err
        compile, golden = (line for line in err.splitlines() if line.startswith(("compile ", "golden ")))
        steps = {"weights", "lower", compile, golden, "publish"}
        said = [line for line in err.splitlines() if line not in steps]
        return Built(json.loads(out)["digest"], compile, golden, said, bundle)

    return get


def test_a_build_from_the_cache_makes_what_is_missing_alone_and_gives_the_bytes_of_one_without(
    tmp_path: Path, making: Callable[..., Built], caplog: pytest.LogCaptureFixture
) -> None:
    manifest = toy.manifest(tmp_path / "toy", programs=2)
    (tmp_path / "toy" / "file").touch()
    cold = making(manifest, "cold")
    warm = making(manifest, "warm")
    entries = sorted((tmp_path / "toy" / "cache" / "executable").iterdir())
    entries[0].write_bytes(b"spoilt")
    manifest.write_text(manifest.read_text().replace("batch_size: 4", "batch_size: [4, 8]"))
    wider = making(manifest, "wider")
    without = making(manifest, "without", cached="file/below")  # a cache that cannot be written

    assert (cold.compile, cold.said) == ("compile 2 programs", [])
    assert (warm.compile, warm.digest, warm.said) == ("compile 2 programs, 2 from the cache", cold.digest, [])
    assert [made.golden for made in (cold, warm, wider, without)] == [
        "golden 1 entries",
        "golden 1 entries, 1 from the cache",
        "golden 2 entries, 1 from the cache",
        "golden 2 entries",
    ]
    for one, other in ((cold, warm), (wider, without)):  # which names the image manifest, and that the attachments
        assert (one.bundle / "index.json").read_bytes() == (other.bundle / "index.json").read_bytes()
    assert (wider.compile, without.compile) == ("compile 4 programs, 1 from the cache", "compile 4 programs")
    assert wider.digest == without.digest
    assert [re.sub("entry .*… ", "entry … ", record.getMessage()) for record in caplog.records] == [
        f"cache {tmp_path / 'toy/cache'}: entry … is damaged; removed, it is made again",
        f"cache {tmp_path / 'toy/file/below'}: not a directory; what is built is not kept for the next build",
    ]


def test_programs_of_a_family_are_lowered_once_and_stored_ones_are_the_same_to_the_last_byte(
    tiny_bundle: Path, tmp_path: Path, build_cache: Path
) -> None:
    plan, heard = plans.resolve(plans.read_manifest(TINY)), Heard()
    before = {path: path.read_bytes() for path in (build_cache / "program").iterdir()}
    with Writer.stage(tmp_path / "bundle") as writer:
        made = build.lower_plan(plan, writer, heard, cache=cache.Cache(build_cache))
        found = {program.digest: writer.read(program.digest) for program in made.programs}
    index = store.open(tiny_bundle).index

    assert {path: path.read_bytes() for path in (build_cache / "program").iterdir()} == before
    assert found == {p.digest: store.open(tiny_bundle).read(p.digest, p.bytes) for p in index.programs}
    assert (made.bindings, made.entries, made.phases) == (index.bindings, index.entries, index.phases)
    assert [total for _, total in heard.parts] == [len(made.programs)] * len(made.programs)


def laid_out(writer: Writer, heard: Heard, old: store.Bundle | None = None) -> WeightsRecord:
    """The weights of the tiny model."""
    with Worker() as worker:
        return build.laid_out(worker, plans.resolve(plans.read_manifest(TINY)), writer, heard.advance, old=old)


def test_laying_out_weights_tells_how_much_of_them_is_left(tmp_path: Path) -> None:
    heard = Heard()
    with Writer.stage(tmp_path / "bundle") as writer:
        made = laid_out(writer, heard)
    left = [seconds for seconds, _ in heard.parts]

    assert [total for _, total in heard.parts] == [len(made.arrays)] * len(made.arrays)
    assert None not in left
    assert left[-1] == 0 < left[0]


def shared_with(destination: Path, old: store.Bundle) -> tuple[WeightsRecord, list[bool]]:
    """The weights of the tiny model, and of each blob whether the file is the old bundle's."""
    with Writer.stage(destination) as writer:
        made = laid_out(writer, Heard(), old)
        names = [store.BLOBS / blob.digest.removeprefix("sha256:") for blob in made.blobs]
        shared = [(old.path / name).exists() and (old.path / name).samefile(writer.root / name) for name in names]
    return made, shared


def test_a_bundle_that_is_built_over_keeps_its_weights_where_they_are_the_same_and_only_there(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    old = store.open(shutil.copytree(tiny_bundle, tmp_path / "old"))
    (blob,) = old.index.weights.blobs
    others = dataclasses.replace(
        old.index.weights, blobs=(dataclasses.replace(blob, digest=digest.digest_of(b"other")),)
    )
    other = dataclasses.replace(old, index=dataclasses.replace(old.index, weights=others))
    same = shared_with(tmp_path / "same", old)
    changed = shared_with(tmp_path / "changed", other)

    assert same == (old.index.weights, [True])
    assert changed == (old.index.weights, [False])


def test_weights_are_shared_with_a_bundle_that_was_verified_and_by_builds_with_a_cache(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    options = build.Options(shutil.copytree(tiny_bundle, tmp_path / "old"), cache=cache.Cache(tmp_path / "cache"))
    weights = store.open(options.destination).index.weights
    unknown = build._old(options)
    verified.remember(options.destination, weights)
    known = build._old(options)
    without = build._old(dataclasses.replace(options, cache=None))
    nothing = build._old(dataclasses.replace(options, destination=tmp_path / "none"))
    (options.destination / store.BLOBS / weights.blobs[0].digest.removeprefix("sha256:")).touch()

    assert known is not None
    assert known.path == options.destination
    assert [unknown, without, nothing, build._old(options)] == [None] * 4


def test_of_a_build_that_is_killed_the_entries_that_ran_are_kept(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exercise.Exercise, "run", lambda self, entry: ({}, {}) if next(runs) < 3 else killed())
    runs, kept, heard = itertools.count(), cache.Cache(tmp_path / "cache"), Heard()
    missing = {i: {"kind": "golden", "number": i} for i in range(14)}

    def killed() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        golden_task.run_missing(tiny_bundle, {}, missing, heard.advance, kept)

    assert len([number for number, factors in missing.items() if kept.read(factors)]) == len(heard.parts) == 3


def test_stages_use_no_cache_unless_they_are_given_one() -> None:
    """Which is what keeps an audit honest: it calls them without."""
    stages = [executables.compile_all, build.lower_plan, golden.outputs, build.laid_out]

    assert [stage.__defaults__[-1] for stage in stages] == [None] * 4
    assert build.Options(Path("x")).cache is None


def test_an_executable_comes_back_from_the_cache_as_it_was_recorded(tmp_path: Path, tiny_bundle: Path) -> None:
    record = store.open(tiny_bundle).index.programs[0].executables[0]
    kept = cache.Cache(tmp_path)
    kept.write({"kind": "executable"}, codec.plain(record), b"bytes")
    found = kept.read({"kind": "executable"})

    assert found is not None
    assert codec.restored(type(record), found.record) == record
