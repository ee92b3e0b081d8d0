"""Where a build may go, and what a full, read-only or occupied place costs: one line, and nothing written."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import toy
from bundles import TODAY, dated, tree
from commands import Finished, aot, finished

from aot import digest
from aot.bundle import store


@pytest.mark.parametrize("options", [[], ["--replace"]])
@pytest.mark.parametrize("kind", ["file", "directory", "file in between"])
def test_a_destination_that_holds_something_else_is_refused_before_the_work(
    tmp_path: Path, refused: Callable[..., str], kind: str, options: list[str]
) -> None:
    manifest = toy.manifest(tmp_path / "toy")
    destination = tmp_path / "there"
    if kind == "directory":
        (destination / "important").mkdir(parents=True)
    else:
        destination.write_text("important")
    if kind == "file in between":
        destination = destination / "below" / "bundle"

    said = refused(2, "build", manifest, "-o", destination, *options)
    assert said.startswith(f"{destination}: ")
    assert ("--force" in said) == (kind != "file in between")


@pytest.mark.parametrize("option", ["--replace", "--force"])
@pytest.mark.parametrize("where", [".", "toy", "toy/toy.yaml"])
def test_replace_never_removes_what_is_built_from_or_where_we_are(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, where: str, option: str
) -> None:
    manifest = toy.manifest(tmp_path / "toy")
    monkeypatch.chdir(tmp_path)
    said = refused(2, "build", manifest, "-o", where, option)

    assert ("which would be removed" if option == "--force" else "is no bundle; replace it with --force") in said


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the manifest of a quick model and its bundle."""
    home = tmp_path_factory.mktemp("toys")
    done = aot("build", toy.manifest(home / "toy"), "-o", home / "bundle")
    assert done.code == 0, done.err
    return home


def bundles(toys: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two manifests; a bundle of the first is at tmp_path/bundles/toy."""
    shutil.copytree(toys / "bundle", tmp_path / "bundles/toy")
    return toys / "toy/toy.yaml", toy.manifest(tmp_path / "other", programs=2)


def test_a_build_of_the_very_bundle_that_is_there_succeeds_and_leaves_it(toys: Path, tmp_path: Path) -> None:
    manifest, _ = bundles(toys, tmp_path)
    before = tree(tmp_path / "bundles/toy")
    done = aot("build", manifest, "-o", tmp_path / "bundles/toy", "--json")

    assert done.code == 0, done.err
    opened = store.open(toys / "bundle")
    said = {"digest": opened.digest, "path": str(tmp_path / "bundles/toy"), "valid_until": opened.index.valid_until}
    assert {name: done.document[name] for name in said} == said
    sizes = [path.stat().st_size for path in (toys / "bundle/blobs/sha256").iterdir()]
    index = opened.index
    executables = sum(len(program.executables) for program in index.programs)
    counts = {"combos": len(index.combos), "programs": len(index.programs), "compiles": executables}
    assert {name: done.document[name] for name in counts} == counts
    assert done.document["cached"] == executables  # the fixture built them
    assert (list(done.document)[3:5], done.document["remarks"]) == (["remarks", "seconds"], [])
    assert 0 < done.document["bytes"] < sum(sizes)
    assert tree(tmp_path / "bundles/toy") == before
    assert os.listdir(tmp_path / "bundles") == ["toy"]


def test_another_bundle_in_the_place_is_kept_until_replace_swaps_it(toys: Path, tmp_path: Path) -> None:
    _, manifest = bundles(toys, tmp_path)
    before = tree(tmp_path / "bundles")
    kept = aot("build", manifest, "-o", tmp_path / "bundles/toy", "--json")
    after = tree(tmp_path / "bundles")
    swapped = aot("build", manifest, "-o", tmp_path / "bundles/toy", "--replace", "--json")

    assert (kept.code, kept.out) == (2, "")
    assert "is not this bundle; replace it with --replace or name another" in kept.err.splitlines()[-1]
    assert {name: facts for name, facts in after.items() if name != "toy"}.keys() <= before.keys()
    assert {name: facts[3] for name, facts in after.items()} == {name: facts[3] for name, facts in before.items()}
    assert swapped.code == 0, swapped.err
    assert aot("verify", tmp_path / "bundles/toy", "--json").document["digest"] == swapped.document["digest"]
    assert os.listdir(tmp_path / "bundles") == ["toy"]


OTHERS = {
    "combos": ("toy.yaml", "batch_size: 4", "batch_size: 8", []),
    "weights": ("toy.py", "np.arange(self.weights_size,", "1 + np.arange(self.weights_size,", ["weights"]),
    "programs": ("toy.py", "+ self.number", "- self.number", ["weights", "lower"]),
    "targets": ("toy.yaml", "platforms:", "targets: []\nplatforms:", ["weights", "lower"]),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_bundle_in_the_place_is_refused_as_soon_as_it_is_seen_to_be_another(
    toys: Path, tmp_path: Path, kind: str
) -> None:
    shutil.copytree(toys, tmp_path / "toys")
    name, old, new, steps = OTHERS[kind]
    file = tmp_path / "toys/toy" / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    done = aot("build", tmp_path / "toys/toy/toy.yaml", "-o", tmp_path / "toys/bundle")

    *before, last = done.err.splitlines()
    assert (done.code, before) == (2, steps)
    assert last.endswith("is not this bundle; replace it with --replace or name another")


def test_replace_leaves_what_lies_beside_a_bundle_and_force_does_not(toys: Path, tmp_path: Path) -> None:
    manifest, _ = bundles(toys, tmp_path)
    (tmp_path / "bundles/toy/notes.txt").write_text("mine")
    (tmp_path / "other").mkdir(exist_ok=True)
    (tmp_path / "other/notes.txt").write_text("mine")
    kept = aot("build", manifest, "-o", tmp_path / "bundles/toy", "--replace")
    forced = aot("build", manifest, "-o", tmp_path / "bundles/toy", "--force")

    assert kept.code == 2
    assert "holds 'notes.txt' beside a bundle" in kept.err
    assert forced.code == 0, forced.err
    assert not (tmp_path / "bundles/toy/notes.txt").exists()


def test_a_refresh_of_damaged_weights_is_refused_before_the_work(toys: Path, tmp_path: Path) -> None:
    old = dated(toys / "bundle", TODAY, tmp_path / "old")
    blob = store.open(old).index.weights.blobs[0]
    file = old / store.BLOBS / digest.hex_of(blob.digest)
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    done = aot("refresh", old, "-o", tmp_path / "new")

    assert (done.code, done.err.count("\n")) == (5, 1)
    assert "is damaged" in done.err


def test_a_refresh_onto_another_bundle_is_refused_before_the_work(toys: Path, tmp_path: Path) -> None:
    old = dated(toys / "bundle", TODAY, tmp_path / "old")
    done = aot("refresh", old, "-o", toys / "bundle")

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "is not this bundle" in done.err


def test_a_mount_point_is_refused_before_the_work(tmp_path: Path) -> None:
    done, _ = mounted(tmp_path, "1m", "", "build", toy.manifest(tmp_path / "toy"), "-o", tmp_path / "disk")

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "is a mount point" in done.err


IN_NAMESPACE = """\
mount -t tmpfs -o size="$1",mode=777 tmpfs "$2" || exit 99
shift; place="$1"; listing="$2"; prepare="$3"; shift 3
eval "$prepare"
"$@"; code=$?
find "$place" -mindepth 1 > "$listing"
exit $code
"""


def mounted(tmp_path: Path, size: str, prepare: str, *arguments: object, **variables: str) -> tuple[Finished, str]:
    """Runs a command where tmp_path/disk is a small disk of its own; also gives what it left there."""
    (tmp_path / "disk").mkdir()
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    script = ["sh", "-c", IN_NAMESPACE, "sh", size, tmp_path / "disk", tmp_path / "listing", prepare]
    done = subprocess.run(
        [*unshare, *script, sys.executable, "-m", "aot.cli.main", *map(str, arguments)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode in (1, 99) and not (tmp_path / "listing").exists():
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    return finished(done), (tmp_path / "listing").read_text()


@pytest.mark.parametrize(
    ("step", "size", "arguments"),
    [
        ("stage", "1m,nr_inodes=3", {}),
        ("lower", "256k", {"weights_size": 1 << 20}),  # weights are laid out meanwhile
        ("lower", "100k", {"programs": 40}),
        ("compile", "96k", {"programs": 10}),
        ("compile", "24k", {}),
        ("publish", "40k", {}),
    ],
)
def test_a_full_disk_is_one_line_whatever_step_it_stops(
    tmp_path: Path, step: str, size: str, arguments: dict[str, int]
) -> None:
    manifest = toy.manifest(tmp_path / "toy", **arguments)
    command = ("build", manifest, "-o", tmp_path / "disk/new/bundle", "--no-cache")
    done, left = mounted(tmp_path, size, "", *command)
    steps, line = done.err.splitlines()[:-1], done.err.splitlines()[-1]

    assert (done.code, done.out, left) == (1, "", "")
    assert line.startswith(f"{tmp_path / 'disk/new/bundle'}: no space left on device; ")
    assert (steps[-1].split()[0] if steps else "stage") == step


def test_a_full_scratch_directory_is_one_line(tmp_path: Path) -> None:
    manifest, disk = toy.manifest(tmp_path / "toy"), tmp_path / "disk"
    arguments = ("build", manifest, "-o", tmp_path / "new/bundle")
    done, left = mounted(tmp_path, "1m,nr_inodes=2", "", *arguments, TMPDIR=str(disk))

    assert (done.code, done.out, left) == (1, "", ""), done.err
    assert done.err.splitlines()[-1].startswith(str(disk))
    assert ": no space left on device; " in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_read_only_disk_is_one_line(tmp_path: Path) -> None:
    manifest, place = toy.manifest(tmp_path / "toy"), tmp_path / "disk/bundle"
    done, _ = mounted(tmp_path, "1m", 'mount -o remount,ro "$place"', "build", manifest, "-o", place)

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"{place}: read-only file system; ")
    assert done.err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_is_one_line(tmp_path: Path, refused: Callable[..., str]) -> None:
    manifest = toy.manifest(tmp_path / "toy")
    (tmp_path / "closed").mkdir(mode=0o555)

    assert "permission denied" in refused(1, "build", manifest, "-o", tmp_path / "closed/bundle")
