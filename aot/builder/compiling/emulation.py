"""Workers under another CPU than the machine's, by QEMU's user mode: so a build can be tried on a CPU not at hand."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

from aot.errors import InputError

VARIABLE = "AOT_EMULATED_CPU"
"""The environment variable that names the CPU which a builder's workers are to run on, as QEMU calls it."""

_EMULATOR = "qemu-x86_64"
_SILENT = "/bin/true"


def python(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The command that starts the interpreter of a worker."""
    cpu = environment.get(VARIABLE)
    return [*([_EMULATOR, "-cpu", cpu] if cpu else []), sys.executable]


def check_emulator(cpu: str) -> None:
    """Raises InputError where there is no emulator, or none that knows the CPU."""
    if shutil.which(_EMULATOR) is None:
        raise InputError(
            f"--cpu {cpu}: needs {_EMULATOR}, which is not installed; on Debian: apt-get install qemu-user"
        )
    if subprocess.run([_EMULATOR, "-cpu", cpu, _SILENT], capture_output=True).returncode:
        raise InputError(f"--cpu {cpu}: {_EMULATOR} knows no such CPU; {_EMULATOR} -cpu help lists those it knows")
