"""Broken and malicious bundles: each is one line that names its fault, never a traceback."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import synthetic
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from aot import digest
from aot.bundle import store
from aot.bundle.index import codec
from aot.bundle.index.records import FORMAT
from aot.errors import AotError, BundleError, InputError, MachineError


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("pristine") / "b"
    synthetic.write(place)
    yield place
    assert len(store.verify(place).blobs) == 6


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "b"))


def fault_of(root: Path, look: Callable[[Path], object] = store.verify) -> str:
    with pytest.raises(BundleError) as caught:
        look(root)
    message = str(caught.value)
    assert message.startswith(f"bundle {root}: ")
    assert "\n" not in message
    return message


def files_of(root: Path) -> dict[str, Path]:
    """What kind each file is."""
    bundle = store.open(root)
    program = bundle.index.programs[0]
    blobs = {
        "program": program.digest,
        "executable": program.executables[0].digest,
        "weights": bundle.index.weights.blobs[0].digest,
        "tokenizer": bundle.index.tokenizer["tokenizer.json"].digest,
        "index": bundle.digest,
    }
    files = {kind: synthetic.blob_file(root, name) for kind, name in blobs.items()}
    return files | {"manifest": synthetic.manifest_of(root)}


KINDS = ["program", "executable", "weights", "tokenizer", "index", "manifest"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_in_any_blob_is_named_with_both_digests(root: Path, kind: str):
    file = files_of(root)[kind]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)

    found = digest.digest_of(bytes(data))[:19]
    assert f"blob sha256:{file.name[:12]}… is damaged (its bytes hash to {found}…)" in fault_of(root)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_blob_is_named_when_the_bundle_is_opened(root: Path, kind: str):
    file = files_of(root)[kind]
    file.unlink()

    assert f"blob sha256:{file.name[:12]}… is missing" in fault_of(root, store.open)


@pytest.mark.parametrize("kind", KINDS)
def test_a_blob_cut_short_is_named_when_the_bundle_is_inspected(root: Path, kind: str):
    file = files_of(root)[kind]
    data = file.read_bytes()
    file.write_bytes(data[:-1])

    assert f"has {len(data) - 1} bytes, its record says {len(data)}" in fault_of(root, store.inspect)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["directory", "pipe", "loop", "dangling", "device"])
def test_what_lies_in_the_place_of_a_blob_and_is_no_file_is_refused(root: Path, kind: str, what: str):
    file = files_of(root)[kind]
    file.unlink()
    make = {
        "directory": file.mkdir,
        "pipe": lambda: os.mkfifo(file),
        "loop": lambda: file.symlink_to(file.name),
        "dangling": lambda: file.symlink_to("nowhere"),
        "device": lambda: file.symlink_to("/dev/zero"),
    }
    make[what]()

    said = {"loop": "cannot be read (Too many levels", "dangling": "is missing"}.get(what, "is no regular file")
    assert said in fault_of(root, store.inspect)


def test_blobs_that_are_links_to_the_right_bytes_are_followed(root: Path, tmp_path: Path):
    for file in files_of(root).values():
        file.rename(tmp_path / file.name)
        file.symlink_to(tmp_path / file.name)

    assert len(store.verify(root).blobs) == 6


@pytest.mark.parametrize("place", ["notes.txt", "blobs/md5", "blobs/sha256/" + "0" * 64, "blobs/sha256/x", ".hidden"])
def test_a_surplus_file_is_named(root: Path, place: str):
    (root / place).write_text("")

    assert f"{place!r} is no part of it" in fault_of(root)
    store.open(root)


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "must be an object"),
        (b'{"a": 1, "a": 1}', "the name 'a' occurs twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "integer string conversion"),
        (b"NaN", "NaN is no JSON number"),
        (b"1e999", "1e999 is beyond a float"),
        (b"{}" + b" " * (1 << 20), "bytes, at most 1048576 are allowed"),
    ],
)
def test_hostile_json_is_refused(root: Path, name: str, data: bytes, said: str):
    (root / name).write_bytes(data)

    assert said in fault_of(root)


DESCRIPTOR = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:" + "0" * 64, "size": 1}
INDEX = {"schemaVersion": 2, "manifests": [DESCRIPTOR]}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (INDEX | {"schemaVersion": 3}, "schemaVersion must be 2, got 3"),
        (INDEX | {"schemaVersion": True}, "schemaVersion must be of type int, got True"),
        (INDEX | {"mediaType": "text/plain"}, "mediaType must be"),
        (INDEX | {"annotations": {}}, "unknown field 'annotations'"),
        (INDEX | {"subject": DESCRIPTOR}, "unknown field 'subject'"),
        (INDEX | {"manifests": []}, "must hold one descriptor, got 0"),
        (INDEX | {"manifests": [DESCRIPTOR] * 2}, "must hold one descriptor, got 2"),
        (INDEX | {"manifests": {}}, "manifests must be of type list"),
        ({"schemaVersion": 2}, "lacks the field 'manifests'"),
        (INDEX | {"manifests": [None]}, "manifests[0] must be an object, got None"),
        (INDEX | {"manifests": [DESCRIPTOR | {"digest": "sha256:../../../etc/passwd"}]}, "digest must be 'sha256:'"),
        (INDEX | {"manifests": [DESCRIPTOR | {"digest": "sha256:" + "0" * 64 + "\n"}]}, "digest must be 'sha256:'"),
        (INDEX | {"manifests": [DESCRIPTOR | {"digest": "sha256:" + "F" * 64}]}, "digest must be 'sha256:'"),
        (INDEX | {"manifests": [DESCRIPTOR | {"digest": "sha512:" + "0" * 128}]}, "digest must be 'sha256:'"),
        (INDEX | {"manifests": [DESCRIPTOR | {"size": "1"}]}, "size must be of type int, got '1'"),
        (INDEX | {"manifests": [DESCRIPTOR | {"size": 1.0}]}, "size must be of type int, got 1.0"),
        (INDEX | {"manifests": [DESCRIPTOR | {"size": -1}]}, "size must be at least 0, got -1"),
        (INDEX | {"manifests": [DESCRIPTOR | {"size": 1 << 62}]}, "at most"),
        (INDEX | {"manifests": [DESCRIPTOR | {"mediaType": "a/b"}]}, "manifests[0].mediaType must be"),
        (INDEX | {"manifests": [DESCRIPTOR | {"artifactType": "a/b"}]}, "manifests[0].artifactType must be"),
        (INDEX | {"manifests": [DESCRIPTOR | {"urls": []}]}, "unknown field 'urls'"),
        (INDEX | {"manifests": [DESCRIPTOR | {"annotations": {"org.aot": "1"}}]}, "unknown field 'org.aot'"),
        (INDEX | {"manifests": [DESCRIPTOR]}, "is missing"),
    ],
)
def test_an_index_json_that_says_anything_else_is_refused(root: Path, value: object, said: str):
    (root / "index.json").write_text(json.dumps(value))

    assert said in fault_of(root)


@pytest.mark.parametrize(
    "value", [{"imageLayoutVersion": "1.1.0"}, {"imageLayoutVersion": 1}, {}, {"imageLayoutVersion": "1.0.0", "x": 1}]
)
def test_an_oci_layout_of_another_version_or_with_more_fields_is_refused(root: Path, value: object):
    (root / "oci-layout").write_text(json.dumps(value))

    assert "oci-layout: it" in fault_of(root) or "imageLayoutVersion must be" in fault_of(root)


def spoiled_manifest(root: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads(synthetic.manifest_of(root).read_bytes())
    change(manifest)
    synthetic.reseal(root, digest.canonical_json(manifest))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(schemaVersion=1), "schemaVersion must be 2, got 1"),
        (lambda m: m.update(artifactType="a/b"), "artifactType must be"),
        (lambda m: m.pop("artifactType"), "lacks the field 'artifactType'"),
        (lambda m: m.update(mediaType="a/b"), "mediaType must be"),
        (lambda m: m.update(annotations={}), "unknown field 'annotations'"),
        (lambda m: m["config"].update(mediaType="a/b"), "config.mediaType must be"),
        (lambda m: m["config"].update(size=1 << 60), "index of 1152921504606846976 bytes, at most"),
        (lambda m: m["config"].update(size=1 << 27), "its record says 134217728"),
        (lambda m: m["layers"][0].update(size=1 << 62), "4611686018427387904 bytes, in the index"),
        (lambda m: m["layers"][0].update(mediaType="a/b"), "is 'a/b' of 18 bytes, in the index"),
        (lambda m: m["layers"][0].update(digest="sha256:../x"), "layers[0].digest must be 'sha256:'"),
        (lambda m: m["layers"][0].update(annotations={}), "unknown field 'annotations'"),
        (lambda m: m["layers"].append(m["layers"][0]), "a layer is listed twice"),
        (lambda m: m["layers"].append(m["layers"][0] | {"digest": m["config"]["digest"]}), "the index does not name"),
        (lambda m: m["layers"].pop(), "lacks the layer sha256:"),
    ],
)
def test_an_image_manifest_other_than_the_index_makes_it_is_refused(root: Path, change: Callable, said: str):
    spoiled_manifest(root, change)

    assert said in fault_of(root, store.inspect)


def test_an_image_manifest_may_be_spelled_as_a_tool_likes(root: Path):
    synthetic.reseal(root, json.dumps(json.loads(synthetic.manifest_of(root).read_bytes()), indent=2).encode())

    assert store.verify(root).digest == store.inspect(root).digest


@pytest.mark.parametrize(
    "rows", [b"{", b"1,,2", b'],"layers":[', b"NaN", b'{"digest":1,"digest":2}', b"null", b"[" * 9999]
)
def test_layers_are_read_as_strictly_as_the_manifest_around_them(root: Path, rows: bytes):
    data = synthetic.manifest_of(root).read_bytes()
    synthetic.reseal(root, data.replace(b'"layers":[', b'"layers":[' + rows + b",", 1))

    assert "image manifest: " in fault_of(root)


def test_an_image_manifest_with_a_name_twice_is_refused(root: Path):
    data = synthetic.manifest_of(root).read_bytes()
    synthetic.reseal(root, data.replace(b'{"artifactType"', b'{"schemaVersion":2,"artifactType"', 1))

    assert "the name 'schemaVersion' occurs twice" in fault_of(root)


def index_with(root: Path, change: Callable[[dict], object]) -> None:
    value = synthetic.opened(codec.encode(store.open(root).index))
    change(value)
    synthetic.rewire(root, synthetic.closed(value))


def test_a_newer_format_is_a_machine_error_when_the_digest_of_the_index_holds(root: Path):
    index_with(root, lambda index: index.update(format=FORMAT + 1))

    with pytest.raises(MachineError, match=f"format version {FORMAT + 1}, this aot reads up to {FORMAT}"):
        store.open(root)


def test_a_newer_format_is_a_damaged_blob_when_the_digest_does_not_hold(root: Path):
    file = files_of(root)["index"]
    file.write_bytes(file.read_bytes().replace(b"\xa6format\x01", b"\xa6format\x02"))

    assert "is damaged" in fault_of(root)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: index["programs"][0].update(bytes=1 << 62), "image manifest: layer sha256:"),
        (lambda index: index["programs"][0].update(digest="sha256:../../passwd"), "programs[0].digest: must be"),
        (lambda index: index["programs"][0].update(digest="sha256:" + "0" * 64), "lacks the layer sha256:0000"),
        (lambda index: index.pop("weights"), "index: missing required field 'weights'"),
        (lambda index: index["weights"]["blobs"].clear(), "weights.arrays['embed'].blob: no blob 0, there are 0"),
        (
            lambda index: index["tokenizer"].update({"/etc/x": index["tokenizer"].pop("tokenizer.json")}),
            "index: tokenizer: must be 'str' matching regex",
        ),
    ],
)
def test_an_index_that_lies_is_refused_when_the_bundle_is_inspected(root: Path, change: Callable, said: str):
    index_with(root, change)

    assert said in fault_of(root, store.inspect)


def test_serving_is_told_of_a_program_that_lies(root: Path):
    index_with(root, lambda index: index["programs"][0].update(digest="sha256:../../passwd"))

    with pytest.raises(BundleError, match=r"index: programs\[0\]\.digest: must be 'str' matching regex"):
        store.open(root)


def test_serving_is_told_of_a_blob_of_another_size_when_it_reads_it(root: Path):
    program = store.open(root).index.programs[0]
    synthetic.blob_file(root, program.digest).write_bytes(b"short")

    with pytest.raises(BundleError, match="has 5 bytes, its record says 18"):
        store.open(root).read(program.digest, program.bytes)


def test_an_index_that_is_cut_off_is_refused_even_when_its_digest_holds(root: Path):
    data = codec.encode(store.open(root).index)
    synthetic.rewire(root, data[: len(data) // 2])

    assert "was truncated" in fault_of(root, store.inspect)


def test_a_declared_size_beyond_the_file_never_allocates(root: Path):
    bundle = store.open(root)
    program = bundle.index.programs[0]

    for look in (bundle.read, bundle.map):
        with pytest.raises(BundleError, match="has 18 bytes, its record says 4611686018427387904"):
            look(program.digest, 1 << 62)


def test_bytes_that_change_after_opening_are_refused_when_they_are_read(root: Path):
    bundle = store.open(root)
    program = bundle.index.programs[0]
    synthetic.blob_file(root, program.digest).write_bytes(synthetic.PROGRAM[::-1])

    for look in (lambda: bundle.read(program.digest, program.bytes), lambda: bundle.check(program.digest)):
        with pytest.raises(BundleError, match="is damaged"):
            look()


@pytest.mark.parametrize("kind", ["nothing", "file", "empty", "loop", "nul"])
def test_a_path_without_a_bundle_is_an_input_error(tmp_path: Path, kind: str):
    path = tmp_path / ("b\0" if kind == "nul" else "b")
    if kind == "file":
        path.write_text("")
    elif kind == "empty":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to("b")

    with pytest.raises(InputError, match=r"^bundle .*; .*$"):
        store.verify(path)


def test_what_a_listing_cannot_hold_is_still_one_line(root: Path):
    with open(os.fsencode(root) + b"/new\nline\xff", "w"):
        pass

    assert r"'new\nline\udcff' is no part of it" in fault_of(root)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_change_of_a_blob_passes_verify_or_raises_anything_but_an_aot_error(pristine: Path, data: st.DataObject):
    file = data.draw(st.sampled_from(sorted((pristine / "blobs" / "sha256").iterdir())), label="file")
    before = file.read_bytes()
    start = data.draw(st.integers(0, len(before) - 1), label="start")
    patch = data.draw(st.binary(max_size=8), label="patch")
    after = before[:start] + patch + before[start + data.draw(st.integers(0, 8), label="removed") :]
    assume(after != before)

    assert "\n" not in fault_with(pristine, file, after)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["oci-layout", "index.json"]), st.integers(0), st.integers(1, 255))
def test_no_flip_of_a_byte_of_an_oci_file_passes_verify_or_raises_anything_but_an_aot_error(
    pristine: Path, name: str, place: int, change: int
):
    # A longer change may be white space, which a registry may well put there.
    after = bytearray((pristine / name).read_bytes())
    after[place % len(after)] ^= change

    assert "\n" not in fault_with(pristine, pristine / name, after)


def fault_with(root: Path, file: Path, data: bytes) -> str:
    before = file.read_bytes()
    file.write_bytes(data)
    try:
        with pytest.raises(AotError) as caught:
            store.verify(root)
    finally:
        file.write_bytes(before)
    return str(caught.value)


def test_white_space_in_the_oci_files_is_no_fault(root: Path):
    for name in ("oci-layout", "index.json"):
        (root / name).write_text(json.dumps(json.loads((root / name).read_text()), indent=2) + "\n")

    assert len(store.verify(root).blobs) == 6
