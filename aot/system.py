"""What the operating system is asked for, and what it tells of itself."""

import contextlib
import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with(parent: int) -> None:
    """Has this process killed when the one that started it ends, however that is; at once where it has ended.

    A killed process cannot end its children, and one that is busy would not see it go: on Linux the kernel tells.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before the kernel was asked
        os._exit(1)


def available_memory(proc: Path = Path("/proc")) -> int:
    """Bytes that the machine can give without swapping. Raises OSError and KeyError where it is no Linux."""
    return kernel_table(proc / "meminfo")["MemAvailable:"] * 1024


def kernel_table(file: Path) -> dict[str, int]:
    """The rows of a file of the kernel that begin with a name and a number."""
    rows = (line.split() for line in file.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
