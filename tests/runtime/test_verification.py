"""verify='once': gigabytes are hashed beside serving, and only where these very files are new."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import toy
from commands import aot as command
from commands import built

import aot
from aot import directories
from aot.bundle import store, verified
from aot.errors import AotError, BundleError, InputError
from aot.runtime.verification import Verification


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


@pytest.mark.parametrize("threads", [2, 8])
def test_damaged_weights_are_served_to_no_thread_however_many_call_first(bundle, tmp_path, state, threads):
    broken, said = damaged(bundle, tmp_path / "broken"), []

    def first_call(model: aot.Model, barrier: threading.Barrier) -> str:
        barrier.wait()
        try:
            return str(scaled(model))
        except Exception as error:
            return f"{type(error).__name__} {error}"

    for _ in range(12):
        barrier = threading.Barrier(threads)
        with aot.load(broken) as model, ThreadPoolExecutor(threads) as pool:
            said += pool.map(lambda _, m=model, b=barrier: first_call(m, b), range(threads))

    assert {line.partition("sha256")[0] for line in said} == {f"BundleError bundle {broken}: blob "}
    assert not is_known(broken)


def test_what_is_verified_is_what_was_mapped_and_not_what_lies_there_by_then(bundle, tmp_path, state):
    good, bad = shutil.copytree(bundle, tmp_path / "good"), damaged(bundle, tmp_path / "bad")
    blobs = {path: weights_of(path) for path in (good, bad)}
    for path, blob in blobs.items():
        shutil.copy(blob, tmp_path / path.name[0])
    with aot.load(bad) as served_bad, aot.load(good) as served_good:
        os.replace(tmp_path / "g", blobs[bad])
        os.replace(tmp_path / "b", blobs[good])

        with pytest.raises(BundleError, match="is damaged"):
            scaled(served_bad)
        answer = scaled(served_good)

    with aot.load(bad) as now_whole:
        assert answer == scaled(now_whole)
    assert not is_known(good)
    with aot.load(good) as now_broken, pytest.raises(BundleError, match="is damaged"):
        scaled(now_broken)


def test_what_verify_remembers_is_what_it_hashed(bundle, tmp_path, state):
    copy, bad = shutil.copytree(bundle, tmp_path / "copy"), damaged(bundle, tmp_path / "bad")
    found = store.verify(copy)
    os.replace(weights_of(bad), weights_of(copy))
    verified.remember(copy, found.index.weights, found.hashed)

    assert not is_known(copy)


@pytest.mark.parametrize("fault", [MemoryError("no room"), RuntimeError("can't start new thread")])
def test_weights_that_could_not_be_checked_are_not_served(bundle, state, monkeypatch, fault):
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(store.Bundle, "check", fail)
    with aot.load(bundle) as model, pytest.raises(type(fault), match=str(fault)):
        scaled(model)


def test_without_a_thread_for_it_weights_are_checked_in_the_callers(bundle, tmp_path, state, monkeypatch):
    start = threading.Thread.start

    def begin(thread: threading.Thread) -> None:
        if thread.name == "aot-verify":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", begin)
    with aot.load(bundle) as model:
        scaled(model)
    with aot.load(damaged(bundle, tmp_path / "b")) as model, pytest.raises(BundleError, match="is damaged"):
        scaled(model)

    assert is_known(bundle)


def test_a_stream_gives_its_first_piece_before_it_ends_with_the_fault(tiny_bundle, tmp_path, state):
    broken = damaged(tiny_bundle, tmp_path / "broken")

    with aot.load(broken) as model:
        steps = model.start(["def main("], aot.runtime.options.RequestOptions(max_new_tokens=40)).steps
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

    monkeypatch.setattr(directories, "directory_of", nowhere)
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


def test_what_was_closed_before_it_was_checked_is_not_remembered_as_whole(bundle, state, tmp_path):
    copy = damaged(bundle, tmp_path / "copy")
    views = tuple(store.open(copy).map(blob.digest, blob.bytes) for blob in store.open(copy).index.weights.blobs)
    checked = Verification(store.open(copy), views, "once")
    checked.close()

    with pytest.raises(InputError, match="closed before its weights were checked"):
        checked.settle()
    assert not is_known(copy)
