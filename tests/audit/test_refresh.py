"""Renewing bundles: from their own programs, or from the manifest where the installed jax does not take those."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mesh_serving
import pytest
import toy
from bundles import TODAY, dated
from commands import aot, built
from jax import export
from places import TINY
from reports import Heard

import aot as product
from aot import digest
from aot.builder import workers
from aot.builder.stages import reexport, releases
from aot.bundle import attachments, oci, store
from aot.bundle.index import records
from aot.bundle.writer import Writer
from aot.golden import replay as golden
from manifests import MESH_MANIFEST

X = [1.0, 2.0, 3.0]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds toy.yaml, its bundle with golden outputs, that bundle as of an older jax, and the latter refreshed."""
    home = tmp_path_factory.mktemp("toy")
    built(toy.manifest(home / "model", programs=2), home / "built")
    if store.open(home / "built").attachment("golden") is None:
        data = golden.record_golden(store.open(home / "built"))
        assert data is not None
        attachments.attach(home / "built", "golden", data)
    dated(home / "built", TODAY, home / "old")
    done = aot("refresh", home / "old", "-o", home / "new", "--json")
    assert done.code == 0, done.err
    (home / "refresh.json").write_text(done.out)
    return home


@pytest.fixture(scope="module")
def renewed(mesh_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mesh bundle refreshed; beside it what it was refreshed from, `old`, and what the command said."""
    home = tmp_path_factory.mktemp("mesh")
    done = aot("refresh", dated(mesh_bundle, TODAY, home / "old"), "-o", home / "new", "--jobs", 2, "--json")
    assert done.code == 0, done.err
    (home / "refresh.json").write_text(done.out)
    return home / "new"


def files(bundle: Path, role: str) -> dict[str, int]:
    """Digests and inodes of the blobs of a role."""
    named = {name for _, found, name, _ in records.stored_blobs(store.open(bundle).index) if found == role}
    return {name: (bundle / store.BLOBS / digest.hex_of(name)).stat().st_ino for name in named}


def unreadable(bundle: Path, destination: Path) -> Path:
    """A copy of a bundle whose first program is of no release of jax."""
    opened = store.open(bundle)
    first, *rest = opened.index.programs
    data = b"not StableHLO"
    changed = dataclasses.replace(first, digest=digest.digest_of(data), bytes=len(data))
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
    assert said["valid_until"] == new.index.valid_until == releases.installed().valid_until
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
    data = golden.record_golden(store.open(other))
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


def test_a_refresh_that_gains_no_day_is_refused_before_anything_is_exported(
    home: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = releases.installed()
    monkeypatch.setattr(workers.Worker, "__init__", None)
    line = refused(2, "refresh", home / "new", "-o", tmp_path / "new")
    later = refused(2, "refresh", dated(home / "new", "9999-12-31", tmp_path / "late"), "-o", tmp_path / "new")

    assert line == (
        f"bundle {home / 'new'}: its programs are readable until {release.valid_until}, and those of "
        f"jax {release.version} until {release.valid_until}; {releases.newer(release)}"
    )
    assert "are readable until 9999-12-31" in later


def test_an_audit_replays_a_refresh_that_gained_no_day_by_a_jax_that_has_expired_since(
    home: Path, tmp_path: Path
) -> None:
    old, new = store.open(home / "built"), store.open(home / "new")
    with Writer.stage(tmp_path / "new") as writer:
        writer.adopt(new)
        writer.publish(dataclasses.replace(new.index, origin=old.digest))
    manifest = ("--manifest", home / "model" / "toy.yaml")
    asked = ("audit", tmp_path / "new", *manifest, "--from", home / "built", "--programs-only", "--json")
    done = aot(*asked, AOT_TODAY="2099-01-01")

    assert (done.code, done.document["same"]) == (0, True), done.err


def test_an_audit_sees_a_refreshed_bundle_of_another_manifest(home: Path, tmp_path: Path) -> None:
    other = toy.manifest(tmp_path / "model", programs=2, weights_size=16)
    other.write_text(other.read_text().replace("batch_size: 4", "batch_size: 8"))
    done = aot("audit", home / "new", "--manifest", other, "--from", home / "old", "--programs-only", "--json")

    assert done.code == 6
    assert any(row["cause"].startswith("model config: ") for row in done.document["entries"] if row["kind"] == "index")


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


def exported(some: list[records.ProgramRecord], bundle: Path, destination: Path) -> tuple[Any, list[Any]]:
    """What exporting anew gives, and each program before and after it, as jax reads it."""
    opened = store.open(bundle)
    with Writer.stage(destination) as writer:
        writer.adopt(opened)
        made = reexport.programs(some, (), writer, Heard())
        data = [(writer.read(a.digest), writer.read(b.digest)) for a, b in zip(some, made.programs, strict=True)]
    return made, [tuple(export.deserialize(bytearray(each)) for each in pair) for pair in data]


@pytest.mark.parametrize(("name", "platforms"), [("tiny_bundle", ("cpu", "cuda", "tpu")), ("mesh_bundle", ("cpu",))])
def test_reexported_programs_keep_their_contract_and_what_they_donate(
    name: str, platforms: tuple[str, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle = request.getfixturevalue(name)
    chosen = [p for p in store.open(bundle).index.programs if any(a.donated for a in p.arguments)]
    some = [next(p for p in chosen if p.platform == platform) for platform in platforms]
    made, pairs = exported(some, bundle, tmp_path / "bundle")

    assert made.refused is None
    for record, new, (a, b) in zip(some, made.programs, pairs, strict=True):
        assert dataclasses.replace(new, digest="", bytes=0) == dataclasses.replace(
            record, digest="", bytes=0, executables=()
        )
        for field in CONTRACT:
            assert getattr(a, field) == getattr(b, field), field
        assert donated(a) == donated(b) == sum(argument.donated for argument in record.arguments) > 0


CONTRACT = ("platforms", "nr_devices", "in_tree", "in_avals", "in_shardings_hlo")
CONTRACT += ("out_tree", "out_avals", "out_shardings_hlo", "module_kept_var_idx")


def donated(exported: Any) -> int:
    """Arguments of the main function that lend their memory to a result."""
    module = exported.mlir_module()
    main = module[module.index("func.func public @main") :].split("\n", 1)[0]
    return main.count("tf.aliasing_output") + main.count("jax.buffer_donor")


def test_the_programs_of_a_mesh_are_exported_to_the_same_bytes_each_time(
    mesh_bundle: Path, renewed: Path, tmp_path: Path
) -> None:
    made, _ = exported(list(store.open(mesh_bundle).index.programs), mesh_bundle, tmp_path / "bundle")

    assert [p.digest for p in made.programs] == [p.digest for p in store.open(renewed).index.programs]
    assert {p.digest for p in made.programs}.isdisjoint(p.digest for p in store.open(mesh_bundle).index.programs)


def test_a_refreshed_mesh_bundle_gives_the_same_from_the_same_share_on_each_device(
    mesh_bundle: Path, renewed: Path
) -> None:
    command = [sys.executable, mesh_serving.__file__]
    done = [subprocess.run([*command, each, "4"], capture_output=True, text=True) for each in (mesh_bundle, renewed)]
    served = [json.loads(each.stdout) for each in done]

    assert served[1] == served[0]
    assert served[1]["compilations"] == 0
    said = json.loads((renewed.parent / "refresh.json").read_text())
    assert (said["programs_from"], said["golden"]) == ("bundle", {"entries": 3, "largest_difference": 0.0})


def test_a_refreshed_mesh_bundle_lays_every_array_as_the_old_one_and_takes_no_more_memory(
    mesh_bundle: Path, renewed: Path
) -> None:
    old, new = (store.open(bundle).index.programs for bundle in (mesh_bundle, renewed))

    for a, b in zip(old, new, strict=True):
        assert (b.name, b.mesh, b.arguments, b.results) == (a.name, a.mesh, a.arguments, a.results)
        sizes = ("arguments", "outputs", "aliased", "temporaries")
        assert [[e.memory[n] for n in sizes] for e in b.executables] == [
            [e.memory[n] for n in sizes] for e in a.executables
        ]


@pytest.mark.slow
def test_the_refresh_of_a_mesh_bundle_is_reproducible_and_can_be_refreshed_again(renewed: Path, tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(MESH_MANIFEST.replace("tiny/", f"{TINY.parent}/tiny/"))
    audited = aot("audit", renewed, "--manifest", tmp_path / "mesh.yaml", "--from", renewed.parent / "old", "--json")
    again = aot("refresh", dated(renewed, TODAY, tmp_path / "old"), "-o", tmp_path / "again", "--json")

    assert (audited.code, audited.document["same"]) == (0, True)
    assert again.document["golden"] == {"entries": 3, "largest_difference": 0.0}


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
    old = dated(tiny_bundle, TODAY, tmp_path / "old")
    done = aot("refresh", old, "-o", tmp_path / "new", "--jobs", 2, "--json")
    prompts = ["def main(", "import os"]
    asked: dict[str, Any] = {"max_new_tokens": 40, "temperature": 0.8, "seed": 5}
    texts = [
        [r.text for r in product.load(path).generate(prompts, **asked)] for path in (tiny_bundle, tmp_path / "new")
    ]
    memory = [
        [e.memory for p in store.open(path).index.programs for e in p.executables]
        for path in (tiny_bundle, tmp_path / "new")
    ]
    audited = aot("audit", tmp_path / "new", "--manifest", TINY, "--from", old, "--json")

    assert done.code == 0, done.err
    assert texts[0] == texts[1]
    assert memory[0] == memory[1]
    assert (audited.code, audited.document["same"]) == (0, True)
