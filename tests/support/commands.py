"""The command line, run as a user would run it."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DISTURBED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heedful() -> None:
    """For a process to be disturbed: a test run in the background would hand on that it ignores these signals."""
    for number in DISTURBED:
        signal.signal(number, signal.SIG_DFL)


@dataclass(frozen=True)
class Finished:
    """A command that has run."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


def finished(done: "subprocess.CompletedProcess[str]") -> Finished:
    """A process that has run, without what it says again and again of a step that a slow machine makes long."""
    told = (line for line in done.stderr.splitlines(keepends=True) if not line.startswith("still: "))
    return Finished(done.returncode, done.stdout, "".join(told))


def aot(*arguments: object, cwd: Path | None = None, **variables: str) -> Finished:
    """Runs the command line in a process of its own, with some environment variables changed."""
    done = subprocess.run(
        [sys.executable, "-m", "aot.cli.main", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return finished(done)


def built(manifest: Path, destination: Path) -> Path:
    """A bundle of a manifest; fails the test with what the build printed."""
    done = aot("build", manifest, "-o", destination, "--jobs", 2)
    assert done.code == 0, done.err
    return destination


def complaint(line: str, code: int) -> str:
    """The line for people of an error that was told as JSON."""
    error = json.loads(line)["error"]
    assert (list(error)[:3], error["exit_code"]) == (["place", "message", "exit_code"], code)
    return f"{error['place']}: {error['message']}"
