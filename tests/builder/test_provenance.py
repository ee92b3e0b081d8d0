import base64
import datetime
import hashlib
import json
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest
import seeing
import signing
import synthetic
import toy
from commands import built
from places import TINY

from aot import digest
from aot import plan as plans
from aot.builder import installed as installed_here
from aot.builder.compiling import cpu
from aot.builder.stages import provenance, releases
from aot.builder.stages.releases import Release
from aot.builder.tasks.programs import Count
from aot.builder.workers import Worker
from aot.bundle import attachments, store
from aot.cli import main
from aot.targets import CpuTarget

KNOWN = Release("0.10.2", datetime.date(2026, 6, 17))
TOLD = Release("0.10.3", datetime.date(2026, 6, 30), stated=True)


def statement(manifest: Path, evidence: provenance.Evidence | None = None, release: Release = KNOWN) -> bytes:
    plan = plans.resolve(plans.read_manifest(manifest))
    index = synthetic.index()
    return provenance.statement(
        plan, release, index, digest.digest_of(b"bundle"), evidence or provenance.Evidence(plan)
    )


def resources(data: bytes) -> dict[str, dict]:
    found = json.loads(data)["predicate"]["buildDefinition"]["resolvedDependencies"]
    return {item["name"]: item for item in found}


def installed(site: Path, *, bin_path: str, python: str = "311") -> Path:
    """A wheel as an installer lays it out, with what it adds of its own."""
    info = site / "thing-1.2.dist-info"
    (site / "thing").mkdir(parents=True)
    info.mkdir()
    (site / "thing" / "__init__.py").write_text("x = 1\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.2\n")
    row = base64.urlsafe_b64encode(hashlib.sha256(b"x = 1\n").digest()).decode().rstrip("=")
    local = base64.urlsafe_b64encode(hashlib.sha256(bin_path.encode()).digest()).decode().rstrip("=")
    (info / "RECORD").write_text(
        f"{bin_path},sha256={local},40\nthing/__init__.py,sha256={row},6\n"
        f"thing/__pycache__/__init__.cpython-{python}.pyc,,\nthing-1.2.dist-info/INSTALLER,sha256={local},4\n"
        f"thing-1.2.dist-info/RECORD,,\nthing-1.2.dist-info/direct_url.json,sha256={local},1\n"
    )
    return site


def test_it_is_an_in_toto_statement_whose_subjects_are_the_bundle_and_each_key():
    found = json.loads(statement(TINY))

    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"
    bundle, *keys = found["subject"]
    assert bundle == {"name": "bundle", "digest": {"sha256": digest.hex_of(digest.digest_of(b"bundle"))}}
    assert keys == [{"name": "key", "digest": {"sha256": combo.key}} for combo in synthetic.index().combos]
    assert set(found["predicate"]) == {"buildDefinition", "runDetails"}
    assert set(found["predicate"]["runDetails"]) == {"builder"}


def test_it_does_not_say_where_or_when_it_was_made(tmp_path, monkeypatch):
    shutil.copytree(TINY.parent / "tiny", tmp_path / "elsewhere" / "tiny")
    copy = shutil.copy(TINY, tmp_path / "elsewhere")
    before = statement(TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")

    assert statement(Path(copy)) == before
    for place in (TINY.parent, Path(sys.prefix), Path.home()):
        assert str(place).encode() not in before


def test_every_file_of_the_checkpoint_that_is_read_is_named_with_the_digest_of_its_bytes():
    found = resources(statement(TINY))

    files = {name: item["digest"]["sha256"] for name, item in found.items() if "/" in name}
    assert set(files) == {
        "checkpoint/config.json",
        "checkpoint/generation_config.json",
        "checkpoint/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    }
    for name, value in files.items():
        assert value == hashlib.sha256((TINY.parent / "tiny" / name.partition("/")[2]).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"preprocessor_config.json": {"size": 1}, "processor_config.json": {}}, {"preprocessor_config.json"}),
        ({"processor_config.json": {"image_processor": {"size": 1}}}, {"processor_config.json"}),
        ({"preprocessor_config.json": {"size": 1}, "generation_config.json": {}}, None),
    ],
)
def test_configuration_files_are_named_where_they_were_read(tmp_path, given, read):
    seeing.write(tmp_path)
    (tmp_path / "sees/preprocessor_config.json").unlink()
    for name, fields in given.items():
        (tmp_path / "sees" / name).write_text(json.dumps(fields))
    (tmp_path / "a.yaml").write_text("name: a\nmodel: {checkpoint: sees}\nprecompile: {prefill_length: 64}\n")

    found = resources(statement(tmp_path / "a.yaml"))

    files = {name.removeprefix("checkpoint/"): item["digest"]["sha256"] for name, item in found.items() if "/" in name}
    assert set(files) == {"config.json"} | (set(given) if read is None else read)
    for name, value in files.items():
        assert value == hashlib.sha256((tmp_path / "sees" / name).read_bytes()).hexdigest()


def test_the_wheels_that_matter_are_named_with_their_versions_and_transformers_only_where_it_was_used():
    plan = plans.resolve(plans.read_manifest(TINY))
    used = provenance.Evidence(plan)
    used.wheels.add("transformers")

    found = resources(statement(TINY))

    assert {name: found[name]["uri"] for name in provenance.WHEELS} == {
        name: f"pkg:pypi/{name}@{metadata.version(name)}" for name in provenance.WHEELS
    }
    assert "transformers" not in found
    assert "transformers" in resources(statement(TINY, used))


def test_a_wheels_digest_is_that_of_its_files_however_it_was_installed(tmp_path, monkeypatch):
    found = []
    for name, script, python in (("a", "../../../bin/thing", "311"), ("b", "../../Scripts/thing.exe", "312")):
        monkeypatch.setattr(sys, "path", [str(installed(tmp_path / name, bin_path=script, python=python)), *sys.path])
        found.append(installed_here.wheel("thing"))
        monkeypatch.undo()

    files = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in {"thing/__init__.py": b"x = 1\n"}.items()
    )
    assert found[0] == found[1]
    assert found[0] is not None
    assert found[0]["digest"]["dirHash"] == hashlib.sha256(files.encode()).hexdigest()


def test_the_digest_of_jaxlib_follows_from_the_files_that_are_installed():
    distribution = metadata.distribution("jaxlib")
    rows = {
        str(f): digest.of_file(Path(f.locate()))
        for f in distribution.files or ()
        if f.hash and not str(f).startswith("..") and f.name not in ("INSTALLER", "REQUESTED") and f.suffix != ".pyc"
    }

    found = installed_here.wheel("jaxlib")

    assert found is not None
    assert found["digest"]["dirHash"] == installed_here.dir_hash(rows)


def test_a_wheel_that_is_not_installed_is_left_out():
    assert installed_here.wheel("no-such-wheel-at-all") is None


def test_our_own_source_is_named_file_by_file():
    files = resources(statement(TINY))["aot"]["annotations"]["files"]

    assert files["aot/digest.py"] == digest.of_file(Path(digest.__file__))
    assert "aot/isa.json" in files
    assert not [name for name in files if "__pycache__" in name or name.startswith("/")]


def test_a_users_model_is_named_by_the_files_of_it_that_were_imported(tmp_path):
    manifest = toy.manifest(tmp_path / "home")
    (tmp_path / "home" / "unused.py").write_text("")
    plan = plans.resolve(plans.read_manifest(manifest))
    evidence = provenance.Evidence(plan)
    with Worker() as worker:
        worker.request(Count(plan))
        evidence.collect(worker)

    found = resources(statement(manifest, evidence))["model"]

    assert found["annotations"]["files"] == {"toy.py": digest.of_file(tmp_path / "home" / "toy.py")}


def test_a_change_in_the_manifest_shows_in_the_external_parameters(tmp_path):
    one, two = (
        json.loads(statement(toy.manifest(tmp_path / name, weights_size=size)))["predicate"]["buildDefinition"]
        for name, size in (("one", 16), ("two", 17))
    )

    assert one["externalParameters"] != two["externalParameters"]
    assert one["externalParameters"]["manifest"]["model"]["arguments"] == {"weights_size": 16}


def test_the_day_of_a_release_is_an_external_parameter_where_it_was_told_and_nowhere_else():
    known, told = (
        json.loads(statement(TINY, release=release))["predicate"]["buildDefinition"]["externalParameters"]
        for release in (KNOWN, TOLD)
    )

    assert told == {**known, "jax_released": "2026-06-30"}
    assert "jax_released" not in known


def test_a_build_by_a_release_of_unknown_day_is_reproduced_by_who_is_told_the_same_day(tmp_path, document, monkeypatch):
    monkeypatch.setattr(releases, "release_days", dict)
    manifest, option = toy.manifest(tmp_path / "model"), ("--jax-released", "2026-06-30")
    audit = ("audit", tmp_path / "bundle", "--manifest", manifest, "--programs-only")
    built = document("build", manifest, "-o", tmp_path / "bundle", *option)
    again = document(*audit, *option)
    earlier = document(*audit, "--jax-released", "2026-06-29", code=6)
    explained = document("explain", tmp_path / "bundle", "--against", manifest, *option)

    said = json.loads(store.open(tmp_path / "bundle").attachment("provenance") or b"")
    assert said["predicate"]["buildDefinition"]["externalParameters"]["jax_released"] == "2026-06-30"
    assert built["valid_until"] == store.open(tmp_path / "bundle").index.valid_until == "2026-12-30"
    assert (again["same"], explained["same"]) == (True, True)
    assert [row["cause"] for row in earlier["entries"] if row["verdict"] == "differs"] == [
        "validity: 2026-12-30, now 2026-12-29"
    ]


def test_inspect_prints_it(tmp_path, capsys):
    synthetic.write(tmp_path / "b")
    attachments.attach(tmp_path / "b", "provenance", b'{"_type":"x"}')

    codes = [main.run(["inspect", str(tmp_path / "b"), "--provenance", *more]) for more in ([], ["--json"])]

    assert codes == [0, 0]
    pretty, line = '{\n  "_type": "x"\n}\n', '{"_type": "x"}\n'
    assert capsys.readouterr().out == pretty + line


@pytest.mark.parametrize("data", [b"{", b'{"a": 1, "a": 2}', b"\xff", b"NaN"])
def test_inspect_refuses_a_provenance_that_is_no_json(tmp_path, capsys, data):
    synthetic.write(tmp_path / "b")
    attachments.attach(tmp_path / "b", "provenance", data)

    code = main.run(["inspect", str(tmp_path / "b"), "--provenance"])

    out, err = capsys.readouterr()
    assert (code, out) == (5, "")
    assert "provenance: " in err


def test_inspect_says_that_there_is_none(tmp_path, refused):
    synthetic.write(tmp_path / "b")

    assert "has no provenance" in refused(2, "inspect", tmp_path / "b", "--provenance")


def test_a_build_attaches_it_and_names_its_own_digest(tiny_bundle):
    bundle = store.open(tiny_bundle)

    found = json.loads(bundle.attachment("provenance") or b"")

    assert found["subject"][0]["digest"]["sha256"] == digest.hex_of(bundle.digest)
    assert [item["digest"]["sha256"] for item in found["subject"][1:]] == [combo.key for combo in bundle.index.combos]
    parameters = found["predicate"]["buildDefinition"]["internalParameters"]
    assert parameters["settings"] == dict(bundle.index.settings)
    assert parameters["flags"] == sorted(cpu.flags(CpuTarget("avx2", 32)))


FORGED = {
    "another bundle": {"subject": [{"name": "bundle", "digest": {"sha256": "0" * 64}}]},
    "no keys": lambda said: {"subject": said["subject"][:1]},
    "another type": {"_type": "https://example.org"},
    "another predicate": {"predicateType": "https://example.org"},
    "no build definition": {"predicate": {}},
    "dependencies that are none": {"definition": {"resolvedDependencies": [1]}},
    "a dependency without a name": {"definition": {"resolvedDependencies": [{"digest": {}}]}},
    "files that are none": {
        "definition": {"resolvedDependencies": [{"name": "aot", "digest": {}, "annotations": {"files": {"a": 1}}}]}
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Holds toy.yaml and its bundle."""
    home = tmp_path_factory.mktemp("toy")
    built(toy.manifest(home / "model"), home / "bundle")
    return home


@pytest.mark.parametrize("kind", FORGED)
def test_a_statement_about_something_else_is_refused_by_whoever_reads_it(home, tmp_path, refused, kind):
    copy = shutil.copytree(home / "bundle", tmp_path / "bundle")
    changes = FORGED[kind]
    changes = changes(json.loads(signing.provenance(copy))) if callable(changes) else dict(changes)
    attachments.attach(copy, "provenance", signing.provenance(copy, **changes))

    for command in (["verify", copy], ["diff", copy, copy], ["audit", copy, "--manifest", home / "model/toy.yaml"]):
        assert refused(5, *command).startswith(f"bundle {copy}: provenance: ")


@pytest.mark.parametrize("data", [b"{", b"[1]", b"null", b"[" * 100_000, b"[" * 900 + b"]" * 900, b"\xff"])
def test_damage_to_a_statement_is_one_line(home, tmp_path, refused, data):
    copy = shutil.copytree(home / "bundle", tmp_path / "bundle")
    attachments.attach(copy, "provenance", data)

    for command in (["verify", copy], ["diff", copy, copy]):
        assert refused(5, *command).startswith(f"bundle {copy}: provenance: ")


def test_an_audit_makes_the_statement_anew_and_finds_what_was_forged(home, tmp_path, document):
    copy = shutil.copytree(home / "bundle", tmp_path / "bundle")
    said = json.loads(store.open(copy).attachment("provenance") or b"")
    resources = said["predicate"]["buildDefinition"]["resolvedDependencies"]
    next(item for item in resources if item["name"] == "model")["digest"]["dirHash"] = "0" * 64
    attachments.attach(copy, "provenance", digest.canonical_json(said))
    manifest = home / "model/toy.yaml"
    true, forged = (document("audit", b, "--manifest", manifest, code=c) for b, c in ((home / "bundle", 0), (copy, 6)))
    odd = [(row["kind"], row["cause"]) for row in forged["entries"] if row["verdict"] != "same"]

    assert true["same"]
    assert [kind for kind, _ in odd] == ["provenance"]
    assert odd[0][1].startswith(f"resolvedDependencies.model.digest.dirHash: {'0' * 64}, now ")
