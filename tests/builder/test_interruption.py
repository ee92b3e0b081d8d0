"""A build that is ended from outside: what it leaves behind, and what ends with it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import toy
from commands import aot, heedful

STEPS = ["weights", "lower", "compile"]
ARGUMENTS = {"weights": {"stuck": "weights"}, "lower": {"stuck": "lower"}, "compile": {"programs": 80}}
PATIENCE = 60.0


class Build:
    """A build under way, as from a terminal: it leads the process group that Ctrl-C is sent to."""

    def __init__(self, manifest: Path, destination: Path) -> None:
        self.destination = destination
        self.scratch = manifest.parent / "scratch"
        self.scratch.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aot.cli.main", "build", manifest, "-o", destination, "--jobs", "2"],
            env={**os.environ, "TMPDIR": str(self.scratch), "AOT_CACHE_DIR": str(manifest.parent / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=heedful,
        )
        self.said: list[str] = []

    def reach(self, step: str) -> list[int]:
        """Waits until workers are busy with a step; gives their process ids."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if line.startswith(step):
                break
        else:
            raise AssertionError(self.said)
        wait(lambda: len(children(self.process.pid)) > 0)
        time.sleep(1.5)  # into the step
        assert self.process.poll() is None
        return children(self.process.pid)

    def end(self, number: int) -> tuple[int, str, list[str]]:
        """Sends a signal to the group; gives the exit code, all of stdout, and the lines on stderr after the steps."""
        os.killpg(self.process.pid, number)
        out, err = self.process.communicate(timeout=PATIENCE)
        lines = [line for line in err.splitlines() if line and line.split()[0] not in (*STEPS, "golden", "publish")]
        return self.process.returncode, out, lines


def wait(holds: Callable[[], bool], limit: float = PATIENCE) -> None:
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def processes() -> Iterator[tuple[int, int, int]]:
    """Id, parent and session of every process that runs; one that only waits to be reaped does not."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, parent, _, session = path.read_text().rsplit(")", 1)[1].split()[:4]
            if state not in "ZX":
                yield int(path.parent.name), int(parent), int(session)


def children(parent: int) -> list[int]:
    return [process for process, started_by, _ in processes() if started_by == parent]


def alive(workers: list[int]) -> bool:
    """Whether one of some workers runs, or anything that they started: each leads a session."""
    return any(session in workers for _, _, session in processes())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Build]]:
    """Gives a build that stays in a step for as long as a test takes; its destination's parent does not exist."""
    started: list[Build] = []

    def begin(step: str) -> Build:
        manifest = toy.manifest(tmp_path / "toy", **ARGUMENTS[step])
        started.append(Build(manifest, tmp_path / "made" / "bundle"))
        return started[-1]

    yield begin
    for build in started:
        build.process.kill()
        build.process.communicate()


@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_ends_a_build_and_its_workers_and_leaves_nothing(step: str, start: Callable[[str], Build]) -> None:
    build = start(step)
    workers = build.reach(step)
    code, out, said = build.end(signal.SIGINT)

    assert (code, out, said) == (130, "", ["interrupted"])
    assert not alive(workers)
    assert not build.destination.parent.exists()
    assert list(build.scratch.iterdir()) == []


def test_a_second_ctrl_c_does_not_keep_the_first_from_cleaning_up(start: Callable[[str], Build]) -> None:
    build = start("compile")
    build.reach("compile")
    for _ in range(100):  # one of them comes while the first is being answered
        os.killpg(build.process.pid, signal.SIGINT)
        time.sleep(0.002)
    code, _, said = build.end(signal.SIGINT)

    assert (code, said) == (130, ["interrupted"])
    assert not build.destination.parent.exists()
    assert list(build.scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_build_that_is_told_to_end_cleans_up(number: int, start: Callable[[str], Build]) -> None:
    build = start("lower")
    workers = build.reach("lower")
    code, out, said = build.end(number)

    assert (code, out, said) == (128 + number, "", ["interrupted"])
    assert not alive(workers)
    assert not build.destination.parent.exists()
    assert list(build.scratch.iterdir()) == []


def test_a_killed_build_leaves_no_bundle_and_the_next_one_cleans_up(start: Callable[[str], Build]) -> None:
    build = start("compile")
    workers = build.reach("compile")
    build.process.kill()
    build.process.wait()
    left = sorted(path.name for path in build.destination.parent.iterdir())
    read = aot("verify", build.destination.parent / left[0])
    wait(lambda: not alive(workers), 10)
    again = aot("build", toy.manifest(build.scratch / "again"), "-o", build.destination)

    assert len(left) == 1
    assert left[0].startswith(".bundle.")
    assert left[0].endswith(".partial")
    assert (read.code, read.out) == (2, "")
    assert again.code == 0, again.err
    assert [path.name for path in build.destination.parent.iterdir()] == ["bundle"]
    assert aot("verify", build.destination).code == 0


@pytest.mark.parametrize("step", STEPS)
def test_workers_do_not_outlive_a_killed_build_however_busy(step: str, start: Callable[[str], Build]) -> None:
    build = start(step)
    workers = build.reach(step)
    build.process.kill()

    wait(lambda: not alive(workers), 10)


def test_a_build_never_touches_what_another_one_is_staging(start: Callable[[str], Build], tmp_path: Path) -> None:
    build = start("lower")
    build.reach("lower")
    (staged,) = build.destination.parent.iterdir()
    other = aot("build", toy.manifest(tmp_path / "other"), "-o", build.destination)

    assert other.code == 0, other.err
    assert staged.is_dir()
    assert build.end(signal.SIGINT)[0] == 130
    assert [path.name for path in build.destination.parent.iterdir()] == ["bundle"]


def test_a_killed_worker_is_named_and_leaves_nothing(start: Callable[[str], Build]) -> None:
    build = start("lower")
    build.reach("lower")
    wait(lambda: len(children(build.process.pid)) == 1)  # weights are laid out by another one, which ends by itself
    os.kill(*children(build.process.pid), signal.SIGKILL)
    out, err = build.process.communicate(timeout=PATIENCE)

    assert (build.process.returncode, out) == (1, "")
    assert err == "build: a worker ended during 'lower' with status -9: killed, perhaps for want of memory\n"
    assert not build.destination.parent.exists()
    assert list(build.scratch.iterdir()) == []
