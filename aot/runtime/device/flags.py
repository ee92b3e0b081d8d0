"""XLA_FLAGS of the environment, made fit for this jaxlib: it ends the process over a flag that it does not know.

Images for other versions and for GPUs set such flags. They mean nothing to programs that are compiled already.
"""

import logging
import os
import re
import subprocess
import sys
from functools import cache

from aot.errors import MachineError
from aot.runtime.fitting import fit

log = logging.getLogger("aot")

FLAGS_VARIABLE = "XLA_FLAGS"
_KNOWN = re.compile(r"--xla_force_host_platform_device_count=\d+")
_UNKNOWN = re.compile(r"Unknown flags? in XLA_FLAGS: (.*)")
_CAUSE = re.compile(r"^[EF]\d{4} .*?\] (.*)", re.MULTILINE)
_TRY = "import sys; sys.path[:] = sys.argv[1:]; from jaxlib import xla_client; xla_client.make_cpu_client()"
_PATIENCE = 120.0


def settle_flags() -> None:
    """Takes out what this jaxlib does not know, with a line. To be called before XLA starts in this process.

    Raises MachineError where it refuses them for another reason, as for a value or a file that is not there.
    """
    if not all(map(_KNOWN.fullmatch, os.environ.get(FLAGS_VARIABLE, "").split())):
        _settled(os.getpid())


@cache
def _settled(process: int) -> None:
    said = _refused()
    if (unknown := _UNKNOWN.search(said)) is not None:
        names = unknown[1].split()
        left = [flag for flag in os.environ[FLAGS_VARIABLE].split() if flag not in names]
        if left != os.environ[FLAGS_VARIABLE].split():
            log.warning(
                "%s: jaxlib %s does not know %s; left out", FLAGS_VARIABLE, fit.jaxlib_version(), " ".join(names)
            )
            os.environ[FLAGS_VARIABLE] = " ".join(left)
            said = _refused() if left else ""
    if cause := _CAUSE.search(said):
        raise MachineError(
            f"{FLAGS_VARIABLE}: jaxlib {fit.jaxlib_version()} refuses it: {cause[1]}; correct the variable or unset it"
        )


def _refused() -> str:
    """What a process says that starts XLA under these flags and ends of it; nothing where all is well."""
    command = [sys.executable, "-I", "-c", _TRY, *sys.path]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE)
    except (OSError, subprocess.SubprocessError):  # there is nothing to ask with
        return ""
    return done.stderr.decode(errors="replace") if done.returncode else ""
