"""Renewing bundles: from their own programs, or from the manifest where the installed jax does not take those."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy
from conftest import TINY, aot, built
from jax import export

import aot as product
from aot import digest
from aot.builder import reexport, releases
from aot.bundle import attachments, oci, records, store
from aot.bundle.writer import Writer
from aot.runtime import golden

X = [1.0, 2.0, 3.0]


class Quiet:
    def step(self, name: str, total: int | None, kept: int = 0) -> None:
        pass

    def advance(self, detail: str, left: float | None = None, total: int | None = None) -> None:
        pass


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds toy.yaml, its bundle with golden outputs, and that bundle refreshed."""
    home = tmp_path_factory.mktemp("toy")
    built(toy.manifest(home / "model", programs=2), home / "old")
    if store.open(home / "old").attachment("golden") is None:
        data = golden.record(store.open(home / "old"))
        assert data is not None
        attachments.attach(home / "old", "golden", data)
    done = aot("refresh", home / "old", "-o", home / "new", "--json")
    assert done.code == 0, done.err
    (home / "refresh.json").write_text(done.out)
    return home


def files(bundle: Path, role: str) -> dict[str, int]:
    """Digests and inodes of the blobs of a role."""
    named = {name for _, found, name, _ in records.stored(store.open(bundle).index) if found == role}
    return {name: (bundle / store.BLOBS / digest.hex_of(name)).stat().st_ino for name in named}


def unreadable(bundle: Path, destination: Path) -> Path:
    """A copy of a bundle whose first program is of no release of jax."""
    opened = store.open(bundle)
    first, *rest = opened.index.programs
    data = b"not StableHLO"
    changed = dataclasses.replace(first, digest=digest.of(data), bytes=len(data))
    with Writer.stage(destination) as writer:
        writer.adopt(opened)
        writer.add(data)
        writer.publish(dataclasses.replace(opened.index, programs=(changed, *rest)))
    return destination


def test_a_refreshed_bundle_says_what_it_came_from_and_until_when_it_holds(home: Path) -> None:
    said = json.loads((home / "refresh.json").read_text())
    old, new = store.open(home / "old"), store.open(home / "new")

    assert said["digest"] == new.digest != old.digest
    assert (said["programs_from"], said["path"]) == ("bundle", str(home / "new"))
    assert new.index.origin == old.digest
    assert said["valid_until"] == new.index.valid_until == releases.valid_until(new.index.versions["jax"])
    assert len(store.verify(home / "new").blobs) > 0


def test_weights_are_shared_with_the_old_bundle_and_programs_are_not(home: Path) -> None:
    assert files(home / "new", "weights") == files(home / "old", "weights")
    for role in ("program", "executable"):
        assert files(home / "new", role).keys().isdisjoint(files(home / "old", role)), role


def test_a_refreshed_bundle_gives_the_same_results_as_its_golden_outputs_show(home: Path) -> None:
    said = json.loads((home / "refresh.json").read_text())
    results = [product.load(home / name).call("scale", x=X)["y"].tolist() for name in ("old", "new")]

    assert results[0] == results[1]
    assert said["golden"] == {"entries": 1, "largest_difference": 0.0}
    assert store.open(home / "new").attachment("golden") == store.open(home / "old").attachment("golden")


def test_other_results_than_the_golden_ones_end_the_refresh_and_nothing_is_written(home: Path, tmp_path: Path) -> None:
    other = built(toy.manifest(tmp_path / "model", programs=3), tmp_path / "other")
    data = golden.record(store.open(other))
    assert data is not None
    old = store.open(home / "old")
    with Writer.stage(tmp_path / "old") as writer:
        writer.adopt(old)
        writer.publish(old.index, attachments={"golden": data})
    done = aot("refresh", tmp_path / "old", "-o", tmp_path / "new", "--json")

    assert (done.code, done.out, (tmp_path / "new").exists()) == (6, "", False)
    assert "1 of 1 entries give other results" in done.err.splitlines()[-1]


def test_an_audit_replays_a_refresh_from_the_bundle_that_it_came_from(home: Path) -> None:
    asked = ("audit", home / "new", "--manifest", home / "model" / "toy.yaml", "--json")
    done = aot(*asked, "--from", home / "old")

    assert (done.code, done.document["same"]) == (0, True), done.err
    assert {row["kind"] for row in done.document["entries"]} == {*oci.LAYERS, "index"} - {"tuning"}


def test_an_audit_sees_a_refreshed_bundle_of_another_manifest(home: Path, tmp_path: Path) -> None:
    other = toy.manifest(tmp_path / "model", programs=2, weights_size=16)
    other.write_text(other.read_text().replace("batch_size: 4", "batch_size: 8"))
    done = aot("audit", home / "new", "--manifest", other, "--from", home / "old", "--programs-only", "--json")

    assert done.code == 6
    assert any(row["cause"].startswith("model: ") for row in done.document["entries"] if row["kind"] == "index")


def test_a_program_that_jax_refuses_is_lowered_from_the_manifest(home: Path, tmp_path: Path) -> None:
    broken = unreadable(home / "old", tmp_path / "broken")
    alone = aot("refresh", broken, "-o", tmp_path / "new", "--json")
    asked = ("--manifest", home / "model" / "toy.yaml")
    done = aot("refresh", broken, *asked, "-o", tmp_path / "new", "--json")
    programs = [[p.digest for p in store.open(b).index.programs] for b in (home / "old", tmp_path / "new")]

    assert (alone.code, alone.out) == (2, "")
    assert "does not take program scale for cpu" in alone.err
    assert "--manifest" in alone.err.splitlines()[-1]
    assert (done.code, done.document["programs_from"], programs[0]) == (0, "manifest", programs[1])


def test_reexported_programs_keep_their_contract_and_what_they_donate(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = store.open(tiny_bundle)
    chosen = [p for p in bundle.index.programs if any(a.donated for a in p.arguments)]
    some = [next(p for p in chosen if p.platform == platform) for platform in ("cpu", "cuda", "tpu")]
    with Writer.stage(tmp_path / "bundle") as writer:
        writer.adopt(bundle)
        made = reexport.programs(some, (), writer, Quiet())
        pairs = [
            (writer.read(old.digest), writer.read(new.digest)) for old, new in zip(some, made.programs, strict=True)
        ]

    assert made.refused is None
    for record, new, (before, after) in zip(some, made.programs, pairs, strict=True):
        a, b = export.deserialize(bytearray(before)), export.deserialize(bytearray(after))
        assert dataclasses.replace(new, digest="", bytes=0) == dataclasses.replace(
            record, digest="", bytes=0, executables=()
        )
        for name in ("platforms", "in_tree", "in_avals", "out_tree", "out_avals", "module_kept_var_idx"):
            assert getattr(a, name) == getattr(b, name), name
        assert donated(a) == donated(b) == sum(argument.donated for argument in record.arguments) > 0


def donated(exported: Any) -> int:
    """Arguments of the main function that lend their memory to a result."""
    module = exported.mlir_module()
    main = module[module.index("func.func public @main") :].split("\n", 1)[0]
    return main.count("tf.aliasing_output") + main.count("jax.buffer_donor")


def test_bad_input_is_refused_in_one_line(home: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "taken").mkdir()

    assert "is no bundle" in refused(2, "refresh", tmp_path, "-o", tmp_path / "new")
    assert "exists already" in refused(2, "refresh", home / "old", "-o", tmp_path / "taken")
    assert "give the path of a manifest" in refused(
        2, "refresh", home / "old", "--manifest", tmp_path / "m.yaml", "-o", tmp_path / "new"
    )


@pytest.mark.slow
def test_a_refreshed_language_model_writes_the_same_text_and_its_refresh_is_reproducible(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    done = aot("refresh", tiny_bundle, "-o", tmp_path / "new", "--jobs", 2, "--json")
    prompts = ["def main(", "import os"]
    asked: dict[str, Any] = {"max_new_tokens": 40, "temperature": 0.8, "seed": 5}
    texts = [
        [r.text for r in product.load(path).generate(prompts, **asked)] for path in (tiny_bundle, tmp_path / "new")
    ]
    memory = [
        [e.memory for p in store.open(path).index.programs for e in p.executables]
        for path in (tiny_bundle, tmp_path / "new")
    ]
    audited = aot("audit", tmp_path / "new", "--manifest", TINY, "--from", tiny_bundle, "--json")

    assert done.code == 0, done.err
    assert texts[0] == texts[1]
    assert memory[0] == memory[1]
    assert (audited.code, audited.document["same"]) == (0, True)
