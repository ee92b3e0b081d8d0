"""A build that is killed goes on where it was, and in the end nobody can tell."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import toy
from commands import Finished, aot

PROGRAMS = 6


@dataclass(frozen=True)
class Place:
    """Where builds of a manifest go, and what they may leave traces in."""

    manifest: Path
    home: Path

    @property
    def destination(self) -> Path:
        return self.home / "made" / "bundle"

    @property
    def variables(self) -> dict[str, str]:
        return {"AOT_CACHE_DIR": str(self.home / "cache"), "TMPDIR": str(self.home / "scratch")}

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "aot.cli.main", "build", self.manifest, "-o", self.destination, "--jobs", "2"]
        return subprocess.Popen(
            command,
            env={**os.environ, **self.variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def finish(self) -> Finished:
        return aot("build", self.manifest, "-o", self.destination, "--json", **self.variables)

    def executables(self) -> int:
        return len([path for path in self.home.glob("cache/executable/*") if path.name[0] != "."])

    def left(self) -> list[str]:
        """All but the bundle that builds left beside it and in their scratch directory."""
        places = (self.home / "scratch", self.destination.parent)
        return [path.name for place in places for path in place.glob("*") if path != self.destination]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "scratch").mkdir()
    return Place(toy.manifest(tmp_path / "toy", programs=PROGRAMS), tmp_path)


def kill(build: "subprocess.Popen[bytes]", all_of_it: bool) -> None:
    """Kills the builder alone, or with it whatever it started that leads no session of its own."""
    (os.killpg if all_of_it else os.kill)(build.pid, signal.SIGKILL)
    build.wait()


def test_a_killed_build_goes_on_where_it_was_and_sweeps_what_it_left(place: Place) -> None:
    build = place.start()
    while place.executables() < 2 and build.poll() is None:
        time.sleep(0.02)
    kill(build, all_of_it=False)
    left, kept = place.left(), place.executables()
    time.sleep(0.5)  # until the kernel has ended the workers
    done = place.finish()

    assert 2 <= kept < PROGRAMS
    assert any(name.startswith(".bundle.") for name in left)
    assert any(name.startswith(".aot-worker.") for name in left)
    assert done.code == 0, done.err
    assert f"compile {PROGRAMS} programs, {kept} from the cache" in done.err
    assert place.left() == []


@pytest.mark.slow
def test_builds_killed_at_twenty_random_moments_and_resumed_give_one_digest(place: Place, tmp_path: Path) -> None:
    begin = time.monotonic()
    whole = aot("build", place.manifest, "-o", tmp_path / "whole", "--json", "--no-cache").document["digest"]
    lasts = time.monotonic() - begin
    rng, moments = random.Random(4), []
    for number in range(20):
        if number % 4 == 0:  # a fresh start, or no build would be killed early in its compiles
            for path in place.home.glob("cache/*/*"):
                path.unlink()
        build = place.start()
        moments.append(rng.uniform(0, lasts))
        time.sleep(moments[-1])
        kill(build, all_of_it=number % 2 == 0)
        shown = place.destination.exists()
        read = aot("verify", place.destination, "--json")
        done = place.finish() if number % 4 == 3 else None

        assert (read.code, read.out == "") == ((0, False) if shown else (2, True)), (number, moments[-1])
        assert done is None or (done.code, done.document["digest"], place.left()) == (0, whole, []), number
        print(f"killed after {moments[-1]:.1f} s of {lasts:.1f}: {place.executables()} executables kept, "
              f"{'resumed to the same digest' if done else 'left'}")  # fmt: skip
        if done:
            for path in sorted(place.destination.parent.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
