"""verify='once': gigabytes are hashed beside serving, and only where these very files are new."""

import os
import shutil
import threading
from pathlib import Path

import pytest
import toy
from conftest import aot as command
from conftest import built

import aot
from aot import directories
from aot.bundle import store, verified
from aot.errors import AotError, BundleError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("toy")
    return built(toy.manifest(home), home / "bundle")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state directory."""
    monkeypatch.setenv("AOT_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def is_known(bundle: Path) -> bool:
    return verified.known(bundle, store.open(bundle).index.weights)


def weights_of(bundle: Path) -> Path:
    (blob,) = store.open(bundle).index.weights.blobs
    return bundle / store.BLOBS / blob.digest.removeprefix("sha256:")


def damaged(bundle: Path, copy: Path) -> Path:
    shutil.copytree(bundle, copy)
    data = bytearray(weights_of(copy).read_bytes())
    data[-1] ^= 1
    weights_of(copy).write_bytes(data)
    return copy


def scaled(model: aot.Model) -> list[float]:
    return model.call("scale", x=[2.0])["y"].tolist()


def test_a_call_remembers_what_it_verified_and_the_next_process_does_not_hash(bundle, state, monkeypatch):
    with aot.load(bundle) as model:
        before = is_known(bundle)
        scaled(model)
    monkeypatch.setattr(store.Bundle, "check", lambda *_: pytest.fail("hashed once more"))

    assert (before, is_known(bundle)) == (False, True)
    with aot.load(bundle) as model:
        scaled(model)


@pytest.mark.parametrize("policy", ["once", "always", "never"])
def test_damaged_weights_are_found_by_policy(bundle, tmp_path, state, policy):
    broken = damaged(bundle, tmp_path / "broken")

    if policy == "always":
        with pytest.raises(BundleError, match="is damaged"):
            aot.load(broken, verify=policy)
    else:
        with aot.load(broken, verify=policy) as model:
            for _ in range(2):
                if policy == "never":
                    scaled(model)
                    continue
                with pytest.raises(BundleError, match="is damaged"):
                    scaled(model)
    assert not is_known(broken)


def test_a_stream_gives_its_first_piece_before_it_ends_with_the_fault(tiny_bundle, tmp_path, state):
    broken = damaged(tiny_bundle, tmp_path / "broken")

    with aot.load(broken) as model:
        steps = model.start(["def main("], aot.runtime.requests.Options(max_new_tokens=40)).steps
        first = next(steps)
        with pytest.raises(BundleError, match="is damaged"):
            list(steps)
        with pytest.raises(BundleError, match="is damaged"):
            model.generate("def main(")
        assert first


def test_no_call_ends_before_the_verdict(bundle, state, monkeypatch):
    begun, verdict, done = threading.Event(), threading.Event(), threading.Event()
    monkeypatch.setattr(store.Bundle, "check", lambda *_: (begun.set(), verdict.wait(60)))

    with aot.load(bundle) as model:
        hashes_at_load = begun.wait(0.2)
        caller = threading.Thread(target=lambda: (scaled(model), done.set()))
        caller.start()
        assert begun.wait(60)
        ended_early = done.wait(0.2)
        verdict.set()
        caller.join(60)

    assert (hashes_at_load, ended_early, done.is_set()) == (False, False, True)


def test_whatever_touches_a_file_makes_it_new(bundle, tmp_path, state):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    verified.remember(copy, store.open(copy).index.weights)
    before, blob = is_known(copy), weights_of(copy)
    status = blob.stat()
    data = bytearray(blob.read_bytes())
    blob.write_bytes(data)
    os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns))  # as one would who wants to hide it

    assert (before, is_known(copy)) == (True, False)


def test_a_record_that_others_could_have_written_is_not_believed(bundle, state, caplog):
    verified.remember(bundle, store.open(bundle).index.weights)
    believed = is_known(bundle)
    (state / "verified").chmod(0o777)

    assert (believed, is_known(bundle)) == (True, False)
    assert f"state {state / 'verified'}: others can write to it (mode 777)" in caplog.text


def test_without_a_home_the_weights_are_checked_each_time(bundle, monkeypatch):
    def nowhere(kind):
        raise AotError("state: this user has no home directory")

    monkeypatch.setattr(directories, "of", nowhere)
    verified.remember(bundle, store.open(bundle).index.weights)

    assert not is_known(bundle)


def test_a_state_directory_that_cannot_be_written_costs_a_check_and_nothing_else(bundle, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AOT_STATE_DIR", str(tmp_path / "file" / "state"))

    with aot.load(bundle) as model:
        scaled(model)

    assert not is_known(bundle)


def test_build_and_verify_remember_theirs(bundle, tmp_path, monkeypatch):
    seen = []
    for name, arguments in {
        "verify": ("verify", bundle),
        "build": ("build", bundle.parent / "toy.yaml", "-o", tmp_path / "again"),
    }.items():
        monkeypatch.setenv("AOT_STATE_DIR", str(tmp_path / name))
        assert command(*arguments).code == 0
        seen.append(is_known(bundle if name == "verify" else tmp_path / "again"))

    assert seen == [True, True]
