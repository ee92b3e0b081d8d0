"""How long what a model needs is there: until it is closed, whatever becomes of its files, and not after a fork."""

import gc
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import aot
from aot.bundle import store

FEW = 2  # threads that XLA, or a check of weights, starts or ends in its own time; a client has nine and more
PROMPTS = ["def main(", "import os\n" * 12, [1, 2, 3]]


def texts(model: aot.Model) -> list[str]:
    """What needs every program of the tiny model's bundle."""
    alone = [model.generate(prompt, max_new_tokens=20).text for prompt in PROMPTS]
    return alone + [result.text for result in model.generate(PROMPTS, n=2, seed=1, temperature=0.7, max_new_tokens=20)]


def open_files(bundle: Path) -> list[str]:
    """The files of a bundle that this process has open."""
    named = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    found = [os.readlink(name) for name in named if os.path.exists(name)]
    return [path for path in found if path.startswith(f"{bundle}/")]


def loaded(model: aot.Model) -> None:
    """Waits until all that fits this machine is loaded."""
    for executor in model._executors:
        for thread in executor.executables._threads:
            thread.join(60)


def ended(*names: str) -> None:
    """Waits for the threads of such names."""
    for thread in threading.enumerate():
        if thread.name in names:
            thread.join(60)


def mappings(bundle: Path) -> list[str]:
    """What of a bundle's files this process has mapped."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if f"{bundle}/" in line]


def test_closing_gives_back_memory_files_and_threads_without_the_cycle_collector(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    # A copy, for what another test of this process left to the collector is mapped as well.
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    models, threads = [], []
    gc.disable()
    try:
        for _ in range(4):
            models.append(aot.load(bundle))
            models[-1].generate([1, 2, 3], max_new_tokens=4)
            models[-1].close()
            ended("aot-populate", "aot-verify")  # which read what is mapped, each to its end
            threads.append(len(os.listdir("/proc/self/task")))
        patience = time.monotonic() + 30  # XLA lets its arguments go soon after it gave its results
        while mappings(bundle) and time.monotonic() < patience:
            time.sleep(0.01)
        mapped = mappings(bundle)
    finally:
        gc.enable()

    assert threads[-1] <= threads[0] + FEW
    assert mapped == []


def test_models_that_are_loaded_at_once_share_the_threads_of_one_client(tiny_bundle: Path) -> None:
    with aot.load(tiny_bundle) as first:
        first.generate([1, 2, 3], max_new_tokens=4)
        loaded(first)
        before = len(os.listdir("/proc/self/task"))
        with aot.load(tiny_bundle) as second:
            second.generate([1, 2, 3], max_new_tokens=4)
            loaded(second)

            assert len(os.listdir("/proc/self/task")) <= before + FEW


def deleted(bundle: Path, other: Path) -> None:
    shutil.rmtree(bundle)


def replaced(bundle: Path, other: Path) -> None:
    shutil.rmtree(bundle)
    shutil.copytree(other, bundle)


def renamed(bundle: Path, other: Path) -> None:
    bundle.rename(bundle.with_name("elsewhere"))


def left(bundle: Path, other: Path) -> None:
    os.chdir("/")


@pytest.mark.parametrize("change", [deleted, replaced, renamed, left])
@pytest.mark.parametrize("verify", ["once", "never"])
def test_a_loaded_bundle_serves_to_its_end_whatever_becomes_of_its_directory(
    tiny_bundle: Path, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, Path], None], verify: str,
) -> None:  # fmt: skip
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    with aot.load(tiny_bundle) as model:
        expected = texts(model)
    monkeypatch.setenv("AOT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    with aot.load("bundle", verify=verify) as model:
        change(tmp_path / "bundle", small_bundle)

        assert texts(model) == expected


def test_damage_is_found_in_the_file_that_was_loaded_and_not_in_what_took_its_name(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    monkeypatch.setenv("AOT_STATE_DIR", str(tmp_path / "state"))
    (blob,) = store.open(tmp_path / "bundle").index.weights.blobs
    file = tmp_path / "bundle" / store.BLOBS / blob.digest.removeprefix("sha256:")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with aot.load(tmp_path / "bundle") as model:
        (tmp_path / "whole").write_bytes(whole)
        (tmp_path / "whole").replace(file)

        with pytest.raises(aot.BundleError, match="is damaged"):
            model.generate([1, 2, 3], max_new_tokens=4)


def test_no_executable_is_held_open_once_all_are_loaded(tiny_bundle: Path) -> None:
    with aot.load(tiny_bundle) as model:
        before = set(open_files(tiny_bundle))
        model.generate([1, 2, 3], max_new_tokens=4)
        loaded(model)
        after = set(open_files(tiny_bundle))
    index = model.bundle.index
    kept = {blob.digest.removeprefix("sha256:") for blob in (*index.weights.blobs, *index.tokenizer.values())}

    assert len(before) > len(after)
    assert {Path(path).name for path in after} == kept


LIMITED = """
import os, resource, shutil, sys
import aot

import jaxlib.xla_client, tokenizers  # each opens files of its own
highest = max(map(int, os.listdir("/proc/self/fd")))
while (number := os.dup(0)) < highest:  # the limit is on numbers, of which none is left out then
    pass
os.close(number)
resource.setrlimit(resource.RLIMIT_NOFILE, (number + int(sys.argv[2]),) * 2)
try:
    with aot.load(sys.argv[1]) as model:
        shutil.rmtree(sys.argv[1])
        print(model.generate("def main(", max_new_tokens=20).text)
except aot.AotError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("spare", [60, 24, 1])
def test_what_a_process_may_not_open_is_read_ahead_and_too_few_files_are_an_error_by_name(
    tiny_bundle: Path, tmp_path: Path, spare: int
) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    command = [sys.executable, "-c", LIMITED, tmp_path / "bundle", str(spare)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)

    if spare == 1:
        assert "cannot be opened (Too many open files); raise `ulimit -n`, or close some" in done.stdout
    else:
        with aot.load(tiny_bundle) as model:
            assert done.stdout == model.generate("def main(", max_new_tokens=20).text + "\n", done.stderr


FORKED = """
import os, sys
import aot
model = aot.load(sys.argv[1], **eval(sys.argv[2]))
before = model.generate([1, 2, 3], max_new_tokens=8).token_ids
run = model.stream("def main(", max_new_tokens=40)
next(run)
if (child := os.fork()) == 0:
    tries = lambda: model.generate("a"), lambda: model.call("prefill", tokens=[[1]], lengths=[1]), lambda: next(run)
    for each in tries:
        try:
            each()
        except aot.InputError as error:
            print(error)
    model.close()
    try:
        with aot.load(sys.argv[1]) as again:
            print(again.generate([1, 2, 3], max_new_tokens=8).token_ids == before, flush=True)
    except aot.InputError as error:
        print(error, flush=True)
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len("".join(run)) > 0)
model.close()
"""


OF_JAX = (
    "devices: jax began before this process was forked, and its threads are its parent's; load what needs jax in the "
    "child alone, or start it anew"
)


@pytest.mark.parametrize(
    ("options", "client", "loaded"),
    [({}, "jaxlib", "True"), ({"replicas": 2, "devices": 2}, "jaxlib", "True"), ({}, "jax", OF_JAX)],
)
def test_a_model_of_the_parent_says_in_a_child_to_load_after_the_fork_which_then_serves(
    tiny_bundle: Path, options: dict[str, int], client: str, loaded: str
) -> None:
    command = [sys.executable, "-c", FORKED, tiny_bundle, repr(options)]
    variables = {**os.environ, "AOT_CLIENT": client}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    said = (
        f"bundle {tiny_bundle}: loaded before this process was forked, and the threads that run it are its parent's; "
        "load it after the fork"
    )

    assert done.stdout.splitlines() == [said, said, said, loaded, "7 True"], done.stderr


def test_a_loaded_model_says_that_it_cannot_be_pickled(tiny_bundle: Path) -> None:
    with (
        aot.load(tiny_bundle) as model,
        pytest.raises(aot.InputError, match=f"^bundle {tiny_bundle}: a loaded model cannot be copied or pickled; load"),
    ):
        pickle.dumps(model)
