import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import synthetic
from commands import heedful

from aot import digest
from aot.bundle import staging, store
from aot.bundle.writer import Writer
from aot.errors import AotError, InputError


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_published_bundle_opens_with_the_index_it_was_given(tmp_path: Path):
    name = synthetic.write(tmp_path / "b")
    bundle = store.open(tmp_path / "b")

    assert bundle.digest == name
    assert bundle.index == synthetic.index(bundle.index.weights)


def test_a_bundle_gives_each_blob_that_went_in(tmp_path: Path):
    synthetic.write(tmp_path / "b")
    bundle = store.open(tmp_path / "b")
    program = bundle.index.programs[0]

    assert bundle.read(program.digest, program.bytes) == synthetic.PROGRAM
    assert bytes(bundle.map(program.digest, program.bytes)) == synthetic.PROGRAM
    assert bundle.map(program.digest, program.bytes).readonly
    bundle.check(program.digest)


def test_an_empty_blob_is_read_and_mapped(tmp_path: Path):
    with Writer.stage(tmp_path / "b") as writer:
        empty = writer.add(b"")
        for data in (synthetic.PROGRAM, synthetic.EXECUTABLE, synthetic.TOKENIZER, b"weights"):
            writer.add(data)
        tokenizer = {"tokenizer.json": synthetic.blob(synthetic.TOKENIZER), "merges.txt": empty}
        writer.publish(dataclasses.replace(synthetic.index(), tokenizer=tokenizer))
    bundle = store.open(tmp_path / "b")

    assert bundle.read(empty.digest, 0) == b"" == bytes(bundle.map(empty.digest, 0))


def test_two_bundles_of_the_same_records_are_the_same_bytes_whatever_the_umask(tmp_path: Path):
    synthetic.write(tmp_path / "a")
    before = os.umask(0o077)
    try:
        synthetic.write(tmp_path / "elsewhere" / "b")
    finally:
        os.umask(before)

    assert files_of(tmp_path / "a") == files_of(tmp_path / "elsewhere" / "b")


def test_files_of_a_bundle_are_readable_and_not_writable_by_others(tmp_path: Path):
    before = os.umask(0)
    try:
        synthetic.write(tmp_path / "b")
    finally:
        os.umask(before)

    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "b").rglob("*") if path.is_file()} == {0o644}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "b").rglob("*") if path.is_dir()} == {0o755}
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o755


def test_verify_counts_every_file_under_blobs_and_reports_progress(tmp_path: Path):
    synthetic.write(tmp_path / "b")
    steps: list[tuple[int, int]] = []

    found = store.verify(tmp_path / "b", lambda done, total: steps.append((done, total)))

    assert len(found.blobs) == len(list((tmp_path / "b" / "blobs" / "sha256").iterdir())) == 6
    assert steps[-1][0] == steps[-1][1]
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_each_blob_is_named_by_what_sha256sum_says(tmp_path: Path):
    synthetic.write(tmp_path / "b")
    files = list((tmp_path / "b" / "blobs" / "sha256").iterdir())

    said = subprocess.run(["sha256sum", *files], capture_output=True, text=True, check=True).stdout

    assert [line.split()[0] for line in said.splitlines()] == [file.name for file in files]


def test_equal_blobs_are_stored_once(tmp_path: Path):
    with Writer.stage(tmp_path / "b") as writer:
        first = writer.add(b"same")
        with writer.file() as file:
            file.write(b"sa")
            file.write(memoryview(b"me"))
        names = [path.name for path in tmp_path.glob(".b.*.partial/blobs/sha256/*")]

    assert file.record == first
    assert names == [digest.hex_of(first.digest)]


def test_a_writer_includes_and_reads_what_another_process_stored_in_its_staging(tmp_path: Path):
    with Writer.stage(tmp_path / "b") as writer:
        script = f"import sys; from pathlib import Path; {JOINED}"
        subprocess.run([sys.executable, "-c", script, str(writer.root)], check=True)
        record = synthetic.blob(b"from elsewhere")
        writer.include([record])

        assert writer.read(record.digest) == b"from elsewhere"


JOINED = "from aot.bundle.writer import Writer; Writer.join(Path(sys.argv[1])).add(b'from elsewhere')"


def test_a_joined_writer_speaks_of_the_destination_and_not_of_the_staging(tmp_path: Path):
    with Writer.stage(tmp_path / "my.bundle") as writer:
        joined = Writer.join(writer.root)
        (writer.root / "blobs" / "sha256").rmdir()

        with pytest.raises(AotError, match=f"^{tmp_path}/my.bundle: no such file or directory; nothing was written"):
            joined.add(b"data")


def test_a_blob_whose_writing_fails_is_not_kept(tmp_path: Path):
    with Writer.stage(tmp_path / "b") as writer:
        with contextlib.suppress(ZeroDivisionError), writer.file() as file:
            file.write(b"half")
            raise ZeroDivisionError
        left = [path for path in tmp_path.glob(".b.*.partial/**/*") if path.is_file()]

    assert left == []


@pytest.mark.parametrize("fault", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_a_build_that_fails_leaves_nothing_not_even_the_parents_it_made(tmp_path: Path, fault: type[BaseException]):
    with pytest.raises(fault):
        build_until(fault, tmp_path / "dist" / "deep" / "b")

    assert list(tmp_path.iterdir()) == []


def build_until(fault: type[BaseException], destination: Path) -> None:
    with Writer.stage(destination) as writer:
        writer.add(b"some")
        raise fault


def test_a_build_that_publishes_nothing_leaves_nothing(tmp_path: Path):
    with Writer.stage(tmp_path / "b"):
        pass

    assert list(tmp_path.iterdir()) == []


def test_publishing_leaves_only_the_bundle(tmp_path: Path):
    synthetic.write(tmp_path / "b")

    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["blobs", "index.json", "oci-layout"]


def test_publishing_what_is_already_there_is_success_and_touches_nothing(tmp_path: Path):
    synthetic.write(tmp_path / "b")
    before = (tmp_path / "b").stat()

    assert synthetic.write(tmp_path / "b") == store.open(tmp_path / "b").digest
    assert (tmp_path / "b").stat().st_ino == before.st_ino
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def make(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("mine")
    elif kind == "empty directory":
        path.mkdir()
    elif kind == "directory":
        path.mkdir()
        (path / "mine").write_text("mine")
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "link":
        (path.parent / "target").mkdir()
        (path.parent / "target" / "mine").write_text("mine")
        path.symlink_to("target")
    else:
        synthetic.write(path)
        blob = synthetic.blob_file(path, digest.digest_of(synthetic.PROGRAM))
        blob.write_bytes(blob.read_bytes()[::-1])


KINDS = ["file", "empty directory", "directory", "dangling link", "link", "damaged bundle"]


@pytest.mark.parametrize("kind", KINDS)
def test_anything_else_at_the_destination_is_an_error_and_stays(tmp_path: Path, kind: str):
    make(tmp_path / "b", kind)
    before = sorted(os.listdir(tmp_path)), files_of(tmp_path)

    with pytest.raises(InputError, match="b: exists already and is not this bundle; replace it with --replace"):
        synthetic.write(tmp_path / "b")

    assert (sorted(os.listdir(tmp_path)), files_of(tmp_path)) == before


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_replacing_swaps_whatever_is_there_or_what_a_link_to_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, exchange: bool
):
    make(tmp_path / "b", kind)
    if not exchange:
        monkeypatch.setattr(staging, "_rename_with", refuse)

    name = synthetic.write(tmp_path / "b", replace=True)

    assert store.open(tmp_path / "b").digest == name
    assert (tmp_path / "b").is_symlink() == (kind == "link")
    assert sorted(os.listdir(tmp_path)) == (["b", "target"] if kind == "link" else ["b"])
    if kind == "link":
        assert sorted(os.listdir(tmp_path / "target")) == ["blobs", "index.json", "oci-layout"]


def refuse(*_: object) -> None:
    raise OSError(38, "Function not implemented")


def test_where_the_system_knows_no_exclusive_rename_an_existing_destination_is_still_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(staging, "_rename_with", refuse)
    make(tmp_path / "b", "empty directory")

    with pytest.raises(InputError, match="exists already"):
        synthetic.write(tmp_path / "b")
    assert synthetic.write(tmp_path / "c") == store.open(tmp_path / "c").digest


def test_a_destination_is_made_where_the_process_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    synthetic.write(Path("dist/b"))

    assert len(store.verify(Path("dist/b")).blobs) == 6


KILLED = """
import os, sys, time
from pathlib import Path
from aot.bundle.writer import Writer
with Writer.stage(Path(sys.argv[1])) as writer:
    writer.add(b"half a build")
    print("staged", flush=True)
    time.sleep(60)
"""


def start_build(destination: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", KILLED, str(destination)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heedful)
    assert process.stdout.readline() == "staged\n"
    return process


def end_build(process: subprocess.Popen, how: int) -> None:
    process.send_signal(how)
    process.wait()
    process.stdout.close()


def test_leftovers_of_a_killed_build_look_like_no_bundle_and_the_next_build_removes_them(tmp_path: Path):
    end_build(start_build(tmp_path / "b"), signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    with pytest.raises(InputError):
        store.open(left)

    synthetic.write(tmp_path / "b")

    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_build_leaves_the_staging_of_a_living_build_and_that_of_another_name_alone(tmp_path: Path):
    living = start_build(tmp_path / "b")
    end_build(start_build(tmp_path / "other"), signal.SIGKILL)
    try:
        synthetic.write(tmp_path / "b")
        left = sorted(path.name.rsplit(".", 2)[0] for path in tmp_path.iterdir() if path.suffix == ".partial")
    finally:
        end_build(living, signal.SIGKILL)

    assert left == [".b", ".other"]


def left_by(tmp_path: Path, owner: str, age: float = 0) -> Path:
    """The staging directory of another builder of `b`."""
    path = tmp_path / f".b.{owner}-01234567.partial"
    (path / "blobs" / "sha256").mkdir(parents=True)
    for place in (path / "blobs" / "sha256", path / "blobs", path):
        os.utime(place, (time.time() - age, time.time() - age))
    return path


GONE = 4_194_305  # above what Linux counts to


def test_what_a_builder_left_whose_end_nobody_has_asked_for_is_removed(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    host, namespace, _ = staging._owner().split("-")
    left = left_by(tmp_path, f"{host}-{namespace}-{process.pid}")

    synthetic.write(tmp_path / "b")

    assert not left.exists()
    process.wait()


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize(
    ("owner", "age", "stays"),
    [
        ("{host}-{namespace}-{here}", 0, True),  # where locks of another machine are not seen, or none are known
        ("{host}-{namespace}-{gone}", 0, False),
        ("{host}-1-{here}", 0, None),  # of a container: a lock decides, and without one only age
        ("01234567-{namespace}-{gone}", 0, True),
        ("01234567-{namespace}-{gone}", 90_000, False),
    ],
)
def test_what_another_machine_or_a_living_process_builds_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str, age: float, stays: bool | None, locks: bool
) -> None:
    host, namespace, here = staging._owner().split("-")
    left = left_by(tmp_path, owner.format(host=host, namespace=namespace, here=here, gone=GONE), age)
    if not locks:
        monkeypatch.setattr(staging.fcntl, "flock", refuse_locks)

    synthetic.write(tmp_path / "b")

    assert left.exists() == (not locks if stays is None else stays)


def refuse_locks(*_: object) -> None:
    raise OSError(37, "No locks available")


def refuse_sync(*_: object) -> None:
    raise OSError(22, "Invalid argument")


def test_a_file_system_without_locks_and_syncing_is_a_line_each_and_no_end_of_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    staging._remark.cache_clear()
    monkeypatch.setattr(staging.fcntl, "flock", refuse_locks)
    monkeypatch.setattr(staging.os, "fsync", refuse_sync)

    assert synthetic.write(tmp_path / "b") == store.verify(tmp_path / "b").digest
    assert caplog.messages == [
        "the file system locks no files (no locks available); going on without",
        "the file system does not say when data are on the disk (invalid argument); going on without",
    ]


def test_a_disk_that_fails_to_sync_is_still_the_end_of_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(staging.os, "fsync", fail)

    with pytest.raises(AotError, match="b: input/output error; nothing was written"):
        synthetic.write(tmp_path / "b")


def test_a_mount_point_is_refused_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(tmp_path / "b"))

    with pytest.raises(InputError, match="b: is a mount point, which cannot be renamed; name a directory below it"):
        build_until(ZeroDivisionError, tmp_path / "b")


def test_an_interrupted_build_leaves_nothing(tmp_path: Path):
    end_build(start_build(tmp_path / "dist" / "b"), signal.SIGINT)

    assert list(tmp_path.iterdir()) == []


def test_of_two_builds_of_one_destination_at_once_both_succeed(tmp_path: Path):
    with Writer.stage(tmp_path / "b") as first:
        name = synthetic.write(tmp_path / "b")
        for data in (synthetic.PROGRAM, synthetic.EXECUTABLE, synthetic.TOKENIZER):
            first.add(data)
        bundle = store.open(tmp_path / "b")
        blob = bundle.index.weights.blobs[0]
        first.add(bundle.read(blob.digest, blob.bytes))

        assert first.publish(bundle.index) == name

    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.fixture
def small_disk(tmp_path: Path):
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(small_disk: Path):
    with pytest.raises(AotError) as caught:
        build_too_much(small_disk / "dist" / "b")

    assert str(caught.value).startswith(f"{small_disk}/dist/b: no space left on device; nothing was written")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert list(small_disk.iterdir()) == []


def build_too_much(destination: Path) -> None:
    with Writer.stage(destination) as writer:
        for _ in range(100):
            writer.add(os.urandom(4096))


@pytest.mark.parametrize(
    ("name", "said"), [("file/b", "not a directory"), ("x" * 300, "name too long"), ("/", "no directory")]
)
def test_a_destination_that_cannot_be_one_is_an_input_error(tmp_path: Path, name: str, said: str):
    (tmp_path / "file").write_text("")

    with pytest.raises(InputError) as caught, Writer.stage(tmp_path / name):
        pass

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_directory_without_permission_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "locked").mkdir(mode=0o555)
    if os.access(tmp_path / "locked", os.W_OK):  # root may write anywhere
        monkeypatch.setattr(Path, "mkdir", forbid)

    with pytest.raises(AotError, match="locked/b: permission denied; nothing was written") as caught:
        build_until(ZeroDivisionError, tmp_path / "locked" / "b")

    assert caught.value.exit_code == 1


def forbid(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_opening_a_bundle_imports_nothing_heavy():
    code = "import sys, aot.bundle.store; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    heavy = {"jax", "jaxlib", "numpy", "flax", "yaml", "pydantic", "click", "rich", "safetensors", "transformers"}
    assert not heavy & set(loaded)


needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")


def skopeo(source: str, destination: str) -> None:
    subprocess.run(["skopeo", "--insecure-policy", "copy", source, destination], check=True, capture_output=True)


@needs_skopeo
@pytest.mark.parametrize("way", [["oci:{}/b"], ["oci:{}/b:v1"], ["dir:{}/d", "oci:{}/b:latest"]])
def test_a_bundle_keeps_its_digest_and_verifies_after_skopeo_copied_it(tmp_path: Path, way: list[str]):
    name = synthetic.write(tmp_path / "a")
    source = f"oci:{tmp_path}/a"

    for step in way:
        skopeo(source, step.format(tmp_path))
        source = step.format(tmp_path)

    assert store.open(tmp_path / "b").digest == name
    assert len(store.verify(tmp_path / "b").blobs) == 6
