"""What a process holds in memory, and what a second one of the same bundle adds."""

import os
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aot import children
from aot.bench.trial import Trial

# A page of a file that is not yet written to its disk counts as dirty.
_FIELDS = {
    "Rss": "resident",
    "Pss": "proportional",
    "Shared_Clean": "shared",
    "Shared_Dirty": "shared",
    "Anonymous": "anonymous",
}


@dataclass(frozen=True)
class Held:
    """Bytes of a process."""

    resident: int
    proportional: int
    """A part of each shared page, by the number of processes that share it."""
    shared: int
    """What other processes have mapped as well."""
    anonymous: int


@dataclass(frozen=True)
class Beside:
    """What a process holds alone and beside a second one of its bundle, what that one holds, and what it added."""

    alone: Held
    beside: Held
    second: Held
    added: int


def held_bytes() -> Held:
    """What this process holds, once all threads that still load something have ended."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    found = dict.fromkeys(_FIELDS.values(), 0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, _, amount = line.partition(":")
        if name in _FIELDS:
            found[_FIELDS[name]] += int(amount.split()[0]) * 1024
    return Held(**found)


def peak_bytes() -> int:
    """Bytes of the largest resident set that this process has had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def of_second(path: str, trial: Trial) -> Beside:
    """What this process of a bundle and a second one hold, which gives a token."""
    alone = held_bytes()
    command = children.child_command("aot.bench.second", path, trial.argument())
    variables, pipe = {**os.environ, **children.child_variables()}, subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=variables) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        beside = held_bytes()
        process.stdin.close()
    if not line:
        raise ChildProcessError("a second process of the bundle ended before it gave a token")
    second = msgspec.json.decode(line, type=Held)
    return Beside(alone, beside, second, second.proportional + beside.proportional - alone.proportional)
