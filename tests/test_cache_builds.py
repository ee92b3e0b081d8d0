"""Builds never repeat work: what the cache gives is what a build without it makes, and only what is missing is made."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import toy
from conftest import TINY

from aot import plan as plans
from aot.builder import build, cache, executables
from aot.bundle import codec, store
from aot.bundle.writer import Writer
from aot.cli import main


@dataclass(frozen=True)
class Built:
    """What a build printed, and the bundle."""

    digest: str
    compile: str
    """The line of its step `compile`."""
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
        (compile,) = (line for line in err.splitlines() if line.startswith("compile "))
        steps = {"weights", "lower", "golden", "publish", compile}
        said = [line for line in err.splitlines() if line not in steps]
        return Built(json.loads(out)["digest"], compile, said, bundle)

    return get


def test_a_build_from_the_cache_compiles_what_is_missing_alone_and_gives_the_bytes_of_one_without(
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
    assert store.open(cold.bundle).attachment("golden") == store.open(warm.bundle).attachment("golden")
    assert (wider.compile, without.compile) == ("compile 4 programs, 1 from the cache", "compile 4 programs")
    assert wider.digest == without.digest
    assert [re.sub("entry .*… ", "entry … ", record.getMessage()) for record in caplog.records] == [
        f"cache {tmp_path / 'toy/cache'}: entry … is damaged; removed, it is made again",
        f"cache {tmp_path / 'toy/file/below'}: not a directory; what is built is not kept for the next build",
    ]


class Quiet:
    def step(self, name: str, total: int | None, kept: int = 0) -> None:
        pass

    def advance(self, detail: str, left: float | None = None) -> None:
        pass


def test_programs_of_a_family_are_lowered_once_and_stored_ones_are_the_same_to_the_last_byte(
    tiny_bundle: Path, tmp_path: Path, build_cache: Path
) -> None:
    plan = plans.resolve(plans.read(TINY))
    before = {path: path.read_bytes() for path in (build_cache / "program").iterdir()}
    with Writer.stage(tmp_path / "bundle") as writer:
        made = build.lowered(plan, writer, Quiet(), cache=cache.Cache(build_cache))
        found = {program.digest: writer.read(program.digest) for program in made.programs}
    index = store.open(tiny_bundle).index

    assert {path: path.read_bytes() for path in (build_cache / "program").iterdir()} == before
    assert found == {p.digest: store.open(tiny_bundle).read(p.digest, p.bytes) for p in index.programs}
    assert (made.bindings, made.entries, made.phases) == (index.bindings, index.entries, index.phases)


def test_stages_use_no_cache_unless_they_are_given_one() -> None:
    """Which is what keeps an audit honest: it calls them without."""
    stages = [executables.compiled, build.lowered, build.golden, build.about]

    assert [stage.__defaults__[-1] for stage in stages] == [None] * 4
    assert build.Options(Path("x")).cache is None


def test_an_executable_comes_back_from_the_cache_as_it_was_recorded(tmp_path: Path, tiny_bundle: Path) -> None:
    record = store.open(tiny_bundle).index.programs[0].executables[0]
    kept = cache.Cache(tmp_path)
    kept.write({"kind": "executable"}, codec.plain(record), b"bytes")
    found = kept.read({"kind": "executable"})

    assert found is not None
    assert executables.decoded(type(record), found.record) == record
