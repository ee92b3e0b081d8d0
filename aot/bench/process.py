"""Measures contestants: each in fresh processes, all in turn, so that whatever the machine does meets them alike.

A contestant is a command that does the work and prints what it measured as one JSON document, its last line on stdout:

    {"import": s, "open": s, "first_token": s, "sixteen": s, "prefill": [s, …], "decode": [s, …],
     "tokens": [id, …], "versions": {name: version}, "weight_bytes": int}

`import`, `open`, `first_token` and `sixteen` are seconds from the start of the process until that point: until its
libraries are imported, until the model is open, until the first and the sixteenth token are there. `prefill` holds
steady whole prefills, `decode` seconds a token of steady steps, both without the first. The time of the start is the
variable AOT_BENCH_START, in seconds of `time.monotonic`, which on Linux is one clock for all processes.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

START = "AOT_BENCH_START"
LIMIT = 900.0
"""Seconds after which a contestant is ended."""

_CHUNK = 1 << 22
_TOUCH = (
    "import mmap, sys; "
    "mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()"
)


@dataclass(frozen=True)
class Contestant:
    """Something to measure."""

    name: str
    command: tuple[str, ...]
    variables: Mapping[str, str]
    """Environment variables beside those of this process."""
    files: tuple[Path, ...]
    """What the command maps or reads: in the page cache when it starts."""
    memory: int
    """Bytes that it takes beside its files."""


def measure(
    contestants: Sequence[Contestant], rounds: int, report: Callable[[int, str], None] = lambda number, name: None
) -> dict[str, list[Mapping[str, Any]]]:
    """For each contestant by name the documents that it printed, one a round.

    `peak_memory` is added where a document lacks it: bytes of the largest resident set as the kernel counts it, mapped
    files included, and no less than the peak of the calling process: keep that small. Where a run fails, its document
    is {"error": the last line on stderr}. Each round runs all, beginning with the next one; `report` is called with
    the round and the name before each run.
    """
    found: dict[str, list[Mapping[str, Any]]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        first = number % len(contestants)
        for contestant in (*contestants[first:], *contestants[:first]):
            report(number, contestant.name)
            found[contestant.name].append(run(contestant))
    return found


def run(contestant: Contestant) -> Mapping[str, Any]:
    """The document of one run."""
    _prepare(contestant)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            code, usage = _finish(contestant, out, err)
        except OSError as error:
            return {"error": f"{contestant.command[0]}: {error.strerror}"}
        if code == 0 and (document := _document(_last_line(out))) is not None:
            return {"peak_memory": usage.ru_maxrss * 1024, **document}
        return {"error": _last_line(err) or _ending(code)}


def _finish(contestant: Contestant, out: IO[bytes], err: IO[bytes]) -> tuple[int, Any]:
    """Runs the command to its end: its exit code and what it used."""
    variables = {**os.environ, **contestant.variables, START: str(time.monotonic())}
    process = subprocess.Popen(
        contestant.command, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
    )
    with _ended(process):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # else it would wait for a process that is gone
        return process.returncode, usage


@contextlib.contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """No process of this group outlives the block, nor runs longer than the limit."""

    def end() -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(LIMIT, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        end()
        process.wait()


def _prepare(contestant: Contestant) -> None:
    """Makes a start cost what it costs on an idle machine: its files cached, its memory at hand.

    A virtual machine that has handed freed memory back to its host charges whoever needs it next.
    """
    for path in contestant.files:
        with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:  # the contestant will say it better
            buffer = bytearray(_CHUNK)
            while file.readinto(buffer):
                pass
    if amount := min(contestant.memory, _available()):
        command = [sys.executable, "-I", "-S", "-c", _TOUCH, str(amount)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        with _ended(process):
            process.wait()


def _available() -> int:
    """Bytes that the machine can give without swapping."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _document(line: str) -> Mapping[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}, and no document on stdout"
