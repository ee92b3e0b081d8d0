"""What a process holds in memory, and what a second one of the same bundle adds."""

import json
import os
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aot import children

_FIELDS = {"Rss": "resident", "Pss": "proportional", "Shared_Clean": "shared", "Anonymous": "anonymous"}


def held_bytes() -> dict[str, int]:
    """Bytes of this process: resident, its part of them where pages are shared, shared and clean, and anonymous.

    Waits for threads that still load something.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    found = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, _, amount = line.partition(":")
        if name in _FIELDS:
            found[_FIELDS[name]] = int(amount.split()[0]) * 1024
    return found


def peak_bytes() -> int:
    """Bytes of the largest resident set that this process has had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def of_second(path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What this process holds alone and beside a second one of the bundle, what that one holds, and what it added."""
    alone = held_bytes()
    command = children.child_command("aot.bench.second", path, json.dumps(given))
    variables, pipe = {**os.environ, **children.child_variables()}, subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=variables) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        second = json.loads(process.stdout.readline() or "null")
        beside = held_bytes()
        process.stdin.close()
    if second is None:
        raise ChildProcessError("a second process of the bundle ended before it gave a token")
    added = second["proportional"] + beside["proportional"] - alone["proportional"]
    return {"alone": alone, "beside": beside, "second": second, "added": added}
