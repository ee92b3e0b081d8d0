"""Becomes a command that ends with the process that asked for it: `python launch.py PARENT COMMAND…`.

It is run by its path, without the packages around it, so that it costs milliseconds, and they come before the start.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1  # prctl(2); kept by what the process becomes


def main(parent: str, *command: str) -> None:
    with contextlib.suppress(AttributeError, OSError):  # on Linux alone the kernel tells
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it was gone before the kernel was asked
        sys.exit(1)
    try:
        os.execvpe(command[0], command, {**os.environ, "AOT_BENCH_START": str(time.monotonic())})
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(*sys.argv[1:])
