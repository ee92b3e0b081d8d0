"""Measures contestants: each in fresh processes, all in turn, so that whatever the machine does meets them alike.

A contestant is a command that does the work and prints what it measured as one JSON document, its last line on stdout:

    {"import": s, "open": s, "first_token": s, "sixteen": s, "prefill": [s, …], "decode": [s, …],
     "tokens": [id, …], "versions": {name: version}, "weight_bytes": int}

`import`, `open`, `first_token` and `sixteen` are seconds from the start of the process until that point: until its
libraries are imported, until the model is open, until the first and the sixteenth token are there. `prefill` holds
steady whole prefills, `decode` seconds a token of steady answers, both without the first. The time of the start is
the variable AOT_BENCH_START, in seconds of `time.monotonic`, which on Linux is one clock for all processes. Where it
cannot do the work it may print {"error": why} instead, with the name of an AotError as "class".
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from aot import system
from aot.bench import group
from aot.bench.figures import RunDocument

LIMIT = 900.0
"""Seconds after which a contestant is ended."""

_CHUNK = 1 << 22
_HOLD = (
    "import mmap, sys, time; "
    "held = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE); "
    "print(flush=True); "
    "time.sleep(3600)"
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


def measure_in_turn(
    contestants: Sequence[Contestant], rounds: int, report: Callable[[int, str], None] = lambda number, name: None
) -> Iterator[tuple[str, RunDocument]]:
    """Runs all in turn, as often as there are rounds: the name of each and the document that it printed.

    `peak_memory` is added where a document lacks it: bytes of the largest resident set as the kernel counts it, mapped
    files included, and no less than the peak of the calling process: keep that small. Where a run fails, its document
    is {"error": the last line on stderr}. `report` is called with the round and the name before each run.
    """
    for number in range(rounds):
        for place in round_order(len(contestants), number):
            report(number, contestants[place].name)
            yield contestants[place].name, run_contestant(contestants[place])


def round_order(count: int, number: int) -> list[int]:
    """The order of `count` contestants in a round, a row of a Williams square (Williams 1949).

    In as many rounds as there are contestants each has each place once, and, where they are even in number, each of
    the others once before it: what one leaves behind in the machine does not always meet the same one.
    """
    return [((place + 1) // 2 * (1 if place % 2 else -1) + number) % count for place in range(count)]


def run_contestant(contestant: Contestant) -> RunDocument:
    """The document of one run."""
    _prepare(contestant)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code, usage = _finish(contestant, out, err)
        if code == 0 and (document := _document(_last_line(out))) is not None:
            return {"peak_memory": usage.ru_maxrss * 1024, **document}
        return {"error": _last_line(err) or _ending(code)}


def _finish(contestant: Contestant, out: IO[bytes], err: IO[bytes]) -> tuple[int, Any]:
    """Runs the command to its end, which comes no later than the limit: its exit code and what it used."""
    variables = {**os.environ, **contestant.variables}
    streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
    with group.running_group(contestant.command, env=variables, **streams) as process:
        timer = threading.Timer(LIMIT, group.end_group, [process])
        timer.daemon = True
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)  # else it would wait for a process that is gone
        return process.returncode, usage


def _prepare(contestant: Contestant) -> None:
    """Makes a start cost what it costs on an idle machine: its files cached, its memory at hand.

    A virtual machine that has handed freed memory back to its host charges whoever needs it next. The memory is held
    while the files are read, and let go last, so that neither takes the other's place.
    """
    files = {path: path.stat().st_size for path in contestant.files if path.is_file()}
    amount = min(contestant.memory, system.available_memory() - sum(files.values()))
    with contextlib.ExitStack() as held:
        if amount > 0:
            streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            holder = held.enter_context(
                group.running_group([sys.executable, "-I", "-S", "-c", _HOLD, str(amount)], **streams)
            )
            assert holder.stdout is not None
            holder.stdout.readline()
        _read(files)


def _read(files: Iterable[Path]) -> None:
    buffer = bytearray(_CHUNK)
    for path in files:
        with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:  # the contestant will say it better
            while file.readinto(buffer):
                pass


def _document(line: str) -> RunDocument | None:
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
