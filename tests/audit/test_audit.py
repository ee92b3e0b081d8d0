"""What an audit compares, and that it sees what differs: small models, real builds."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import leaky
import pytest
import synthetic
import toy
from commands import Finished, aot, built
from places import TINY
from reports import Heard

from aot import digest
from aot.audit import compare, environments, shuffled
from aot.audit.refresh import Part
from aot.builder.stages import executables
from aot.bundle import store
from aot.bundle.index import records
from aot.bundle.index.records import Index
from aot.bundle.writer import Writer


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds toy.yaml, of two combos, and its bundle."""
    home = tmp_path_factory.mktemp("toy")
    manifest = toy.manifest(home / "model", programs=2)
    manifest.write_text(manifest.read_text().replace("batch_size: 4", "batch_size: [2, 4]"))
    built(manifest, home / "bundle")
    return home


def audit(home: Path, *options: object, manifest: Path | None = None, **variables: str) -> Finished:
    where = manifest or home / "model" / "toy.yaml"
    return aot("audit", home / "bundle", "--manifest", where, "--json", *options, **variables)


def differing(done: Finished) -> set[str]:
    return {row["kind"] for row in done.document["entries"] if row["verdict"] != "same"}


def compared(done: Finished) -> set[str]:
    return {row["kind"] for row in done.document["entries"]}


def rebuilt(home: Path, change: Callable[[Path], None], directory: Path) -> Path:
    """A copy of the manifest's directory, changed."""
    shutil.copytree(home / "model", directory)
    change(directory)
    return directory / "toy.yaml"


def replaced(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        text = (directory / file).read_text()
        assert old in text
        (directory / file).write_text(text.replace(old, new))

    return change


def test_a_bundle_is_reproduced_in_every_environment_with_all_its_kinds(home: Path, tmp_path: Path) -> None:
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)  # our own build cache there would be refused, if it were looked at
    cache["AOT_CACHE_DIR"] = str(tmp_path / "open")
    done = audit(home, "--rounds", 2, **cache)
    index = store.open(home / "bundle").index
    entries = [(index.combos[e.combo].key, e.phase) for e in index.entries]
    shared = [(None, None, kind) for kind in ("weights", "tokenizer", "index", "provenance")]
    each = [(*entry, kind) for entry in entries for kind in ("program", "executable")] + shared

    assert (done.code, done.document["same"], len(done.document["environments"])) == (0, True, 2)
    assert [(r["round"], r["key"], r["phase"], r["kind"]) for r in done.document["entries"]] == [
        (number, *row) for number in (1, 2) for row in each
    ]
    assert list(tmp_path.rglob("*")) == [tmp_path / "open"]  # no build cache was written


def test_for_people_the_last_line_counts_environments_and_entries(home: Path) -> None:
    done = aot("audit", home / "bundle", "--manifest", home / "model" / "toy.yaml", "--programs-only")

    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "1 environment, 2 entries in each, 4 comparisons: 0 differ"


def test_an_audit_leaves_nothing_behind_and_changes_nothing(home: Path, tmp_path: Path) -> None:
    def seen() -> dict[Path, tuple[int, bytes]]:
        return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in home.rglob("*") if p.is_file()}

    before = seen()
    done = audit(home, "--programs-only", TMPDIR=str(tmp_path))

    assert (done.code, seen() == before, list(tmp_path.iterdir())) == (0, True, [])


@pytest.mark.parametrize(
    ("change", "kinds", "cause"),
    [
        (replaced("toy.py", "+ self.number", "- self.number"), {"program"}, "program scale for cpu: sha256:"),
        (replaced("toy.yaml", "[2, 4]", "[2, 8]"), {"program", "index"}, "entry"),
        (replaced("toy.py", '"""A model', '# a comment\n"""A model'), set(), ""),
    ],
)
def test_changed_programs_are_named_and_comments_are_not(
    change: Callable[[Path], None], kinds: set[str], cause: str, home: Path, tmp_path: Path
) -> None:
    done = audit(home, "--programs-only", manifest=rebuilt(home, change, tmp_path / "model"))

    assert (done.code, done.document["same"]) == ((6, False) if kinds else (0, True))
    assert (compared(done), differing(done)) == ({"program", "tokenizer", "index"}, kinds)
    assert all(cause in row["cause"] for row in done.document["entries"] if row["kind"] == "program" and row["cause"])


def test_what_made_a_rebuild_differ_is_named_as_diff_names_it(home: Path, tmp_path: Path) -> None:
    manifest = rebuilt(home, replaced("toy.py", "+ self.number", "- self.number"), tmp_path / "model")
    done = audit(home, "--programs-only", manifest=manifest)
    same = audit(home, "--programs-only")

    assert {cause["factor"] for cause in done.document["causes"]} == {"StableHLO"}
    assert all("stablehlo.subtract" in cause["b"] for cause in done.document["causes"])
    assert same.document["causes"] == []


def test_a_long_document_that_differs_is_named_by_the_field_that_does() -> None:
    index = synthetic.index()
    config = {**index.model["config"], **{f"field_{number}": number for number in range(100)}}
    stored = dataclasses.replace(index, model={"config": config})
    made = dataclasses.replace(index, model={"config": {**config, "field_77": 78}})
    (cause,) = [v.cause for v in compare.compare_indexes(stored, made, Part()) if not v.same]

    assert cause == (
        'model config: model.config.field_77: {"model.config.field_77": 77}, now {"model.config.field_77": 78}'
    )


def test_changed_weights_are_weights_that_differ_and_nothing_else(home: Path, tmp_path: Path) -> None:
    change = replaced("toy.py", "np.arange(self.weights_size,", "1 + np.arange(self.weights_size,")
    done = audit(home, "--target", "cpu", manifest=rebuilt(home, change, tmp_path / "model"))

    assert (done.code, differing(done)) == (6, {"weights"})


def test_only_a_key_compares_its_entries_alone(home: Path) -> None:
    keys = [combo.key for combo in store.open(home / "bundle").index.combos]
    done = audit(home, "--only", keys[1][:12])

    assert (done.code, compared(done)) == (0, {"program", "executable", "tokenizer", "index"})
    assert {row["key"] for row in done.document["entries"]} == {keys[1], None}


def test_noise_that_gets_into_programs_is_caught_whatever_its_kind(tmp_path: Path) -> None:
    manifest = leaky.manifest(tmp_path / "model")
    built(manifest, tmp_path / "bundle")
    done = audit(tmp_path, manifest=manifest)
    several = {"cores"} if len(os.sched_getaffinity(0)) > 1 else set()
    found = {row["phase"] for row in done.document["entries"] if row["verdict"] == "differs"}

    assert (done.code, found) == (6, {"directory", "order", "scan", "umask", *several})


def test_executables_do_not_show_how_many_cores_the_building_machine_has(tiny_bundle: Path, tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    if len(cores) == 1:
        pytest.skip("this machine has one core")
    bundle = store.open(tiny_bundle)
    stored = next(p for p in bundle.index.programs if p.executables and p.name == "embed")  # XLA splits this one
    with Writer.stage(tmp_path / "bundle") as writer:
        writer.adopt(bundle)
        bare = dataclasses.replace(stored, executables=())
        os.sched_setaffinity(0, {min(cores)})
        try:
            (made,) = executables.compile_all([stored.executables[0].built_for], (bare,), writer, 1, Heard())
        finally:
            os.sched_setaffinity(0, cores)

    assert made == stored


def test_a_process_gets_the_environment_that_the_audit_names(tmp_path: Path) -> None:
    code = (
        "import json, os, sys, time; mask = os.umask(0); print(json.dumps([dict(os.environ), mask, "
        "time.localtime(0).tm_hour, sys.flags.hash_randomization, os.listdir.__module__]))"
    )
    given = dataclasses.replace(environments.environment_of(1), cores=())
    process = given.start(tmp_path, "timeit", ["-n1", "-r1", code])
    out, _ = process.communicate()
    variables, mask, hour, _, listing = json.loads(out.splitlines()[0])

    assert given.variables.items() <= variables.items()
    assert {variables[name] for name in ("HOME", "TMPDIR")} == {str(tmp_path / "home"), str(tmp_path / "scratch")}
    assert (mask, hour, listing) == (0o077, 5, "posix")


def test_rounds_differ_in_every_kind_of_noise() -> None:
    rounds = [environments.environment_of(number) for number in (1, 2, 3)]
    names = {name for environment in rounds for name in environment.variables if not name.startswith("JAX_")}

    assert names == {"PYTHONHASHSEED", "LC_ALL", "TZ", "SOURCE_DATE_EPOCH", "NPROC", "XLA_FLAGS"}
    for name in names:
        assert len({environment.variables[name] for environment in rounds}) == 3, name
    assert len({frozenset(e.variables) for e in rounds}) == 3  # jax's own
    for name in ("umask", "jobs"):
        assert len({getattr(environment, name) for environment in rounds}) == 3, name
    assert {len(e.cores) for e in rounds} > {1} or len(os.sched_getaffinity(0)) == 1


def test_shuffled_listings_have_all_names_and_another_order(tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(50)]
    for name in names:
        (tmp_path / name).touch()
    listed = shuffled.listing(os.listdir)(tmp_path)
    with shuffled.scanning(os.scandir)(tmp_path) as entries:
        scanned = [entry.name for entry in entries]

    assert sorted(listed) == sorted(scanned) == names
    assert names not in (listed, scanned)


def change_executable(index: Index) -> Index:
    data = digest.digest_of(b"other code")
    (program,) = index.programs
    (executable,) = program.executables
    return dataclasses.replace(
        index,
        programs=(dataclasses.replace(program, executables=(dataclasses.replace(executable, digest=data, bytes=10),)),),
    )


CHANGES: dict[str, tuple[Callable[[Index], Index], dict[str, int]]] = {
    "nothing": (lambda i: i, {}),
    "executable": (change_executable, {"executable": 4}),
    "tokenizer": (lambda i: dataclasses.replace(i, tokenizer={}), {"tokenizer": 1}),
    "weights": (lambda i: dataclasses.replace(i, weights=records.WeightsRecord((), {})), {"weights": 1}),
    "settings": (lambda i: dataclasses.replace(i, settings={"jax_enable_x64": True}), {"index": 1}),
    "versions": (lambda i: dataclasses.replace(i, versions={"jax": "0", "jaxlib": "0"}), {"index": 1}),
    "phases": (lambda i: dataclasses.replace(i, phases={}), {"index": 1}),
    "binding": (lambda i: dataclasses.replace(i, bindings=i.bindings[::-1]), {"program": 4}),
    "fewer": (lambda i: dataclasses.replace(i, entries=i.entries[1:]), {"program": 1}),
    "order": (lambda i: dataclasses.replace(i, entries=i.entries[::-1]), {"index": 1}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_difference_is_reported_once_where_it_lies(name: str) -> None:
    change, expected = CHANGES[name]
    stored = synthetic.index()
    found = [verdict for verdict in compare.compare_indexes(stored, change(stored), Part()) if not verdict.same]

    assert {kind: sum(v.kind == kind for v in found) for kind in {v.kind for v in found}} == expected


def test_every_field_of_the_index_is_compared() -> None:
    stored = synthetic.index()
    for field in dataclasses.fields(Index):
        value: Any = getattr(stored, field.name)
        other = () if isinstance(value, tuple) else {} if isinstance(value, dict) else None
        if field.name == "weights":
            other = records.WeightsRecord((), {})
        if other == value:
            other = "something"
        if field.name in ("programs", "bindings", "combos"):
            continue  # tables: others point into them
        verdicts = compare.compare_indexes(stored, dataclasses.replace(stored, **{field.name: other}), Part())

        assert not all(verdict.same for verdict in verdicts), field.name


def refreshed(directory: Path, origin: str | None) -> Path:
    """The synthetic bundle, as if it had been refreshed."""
    synthetic.write(directory / "plain")
    opened = store.open(directory / "plain")
    with Writer.stage(directory / "bundle") as writer:
        writer.adopt(opened)
        writer.publish(dataclasses.replace(opened.index, origin=origin))
    return directory / "bundle"


def test_a_refreshed_bundle_needs_the_one_that_it_came_from(tmp_path: Path, refused: Callable[..., str]) -> None:
    bundle = refreshed(tmp_path, "sha256:" + "0" * 64)
    asked = ("audit", bundle, "--manifest", TINY)

    assert f"was refreshed from sha256:{'0' * 64}; name that bundle with --from OLD" in refused(2, *asked)
    assert f"--from {tmp_path / 'plain'}: is " in refused(2, *asked, "--from", tmp_path / "plain")
    assert "leave out --from" in refused(2, "audit", tmp_path / "plain", "--manifest", TINY, "--from", bundle)


def test_bad_input_is_refused_in_one_line(tmp_path: Path, refused: Callable[..., str]) -> None:
    synthetic.write(tmp_path / "bundle")
    asked = ("audit", tmp_path / "bundle", "--manifest")

    assert "no combo has the key 'abc'" in refused(2, *asked, TINY, "--only", "abc")
    assert "give the path of a manifest" in refused(2, *asked, tmp_path / "absent.yaml")
    assert "give one of the two" in refused(2, *asked, TINY, "--target", "cpu", "--programs-only")
    assert "is no bundle" in refused(2, "audit", tmp_path, "--manifest", TINY)
    synthetic.blob_file(tmp_path / "bundle", digest.digest_of(synthetic.PROGRAM)).write_bytes(b"a portable prOgram")
    assert "is damaged" in refused(5, *asked, TINY)
