"""Processes that nobody has to look for afterwards."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_LAUNCH = str(Path(__file__).with_name("launch.py"))


@contextlib.contextmanager
def running_group(command: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A command under way, at the head of a process group of its own; `options` are those of Popen.

    When the block is left, in whatever way, nothing of the group lives on. Where this process is killed, the kernel of
    Linux ends the command.
    """
    launched = [sys.executable, "-I", "-S", _LAUNCH, str(os.getpid()), *command]
    process = subprocess.Popen(launched, start_new_session=True, **options)
    try:
        yield process
    finally:
        end_group(process)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """Kills a process that was started here, with all of its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
