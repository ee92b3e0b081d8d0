"""Commands of aot, each in a child of a process that has imported what they need: under limits, as if started anew."""

import faulthandler
import os
import re
import resource
import select
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aot import system
from aot.cli import main

MEMORY = 1 << 30
"""Bytes that a command may take beside what it is forked with."""
_NEAR = 0.8  # of its time: then it says where it is


@dataclass(frozen=True)
class Finished:
    """A command that has ended, or was ended."""

    code: int
    """Its exit code; below 0 the signal that ended it."""
    late: bool
    out: str
    err: str
    seconds: float
    """Of the processor."""


def run(arguments: Sequence[str], seconds: float, variables: dict[str, str]) -> Finished:
    """Runs a command for at most so many seconds, with some environment variables set."""
    out, err = os.memfd_create("out"), os.memfd_create("err")
    parent = os.getpid()
    process = os.fork()
    if process == 0:
        _become(parent, arguments, seconds, variables, out, err)
    try:
        late = not _ended(process, seconds)
        if late:
            os.kill(process, signal.SIGKILL)
        _, status, used = os.wait4(process, 0)
        spent = used.ru_utime + used.ru_stime
        return Finished(os.waitstatus_to_exitcode(status), late, _read(out), _read(err), spent)
    finally:
        os.close(out)
        os.close(err)


def _ended(process: int, seconds: float) -> bool:
    descriptor = os.pidfd_open(process)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> str:
    return os.pread(descriptor, 1 << 20, 0).decode(errors="replace")


def _become(
    parent: int, arguments: Sequence[str], seconds: float, variables: dict[str, str], out: int, err: int
) -> None:
    """Turns a forked child into the command; never returns."""
    code = 1
    try:
        system.end_with(parent)
        _streams(out, err)
        os.environ.update(variables)
        _limit()
        faulthandler.enable(2)
        faulthandler.dump_traceback_later(seconds * _NEAR, file=2)
        main.main(list(arguments))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            for thread in threading.enumerate():
                if thread is not threading.current_thread() and not thread.daemon:
                    thread.join()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _streams(out: int, err: int) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)


def _limit() -> None:
    held = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert held is not None
    most = int(held[1]) * 1024 + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
