"""Scripts of the tests in fresh processes: on this CPU, in a disguise (`CPUID_AS`), or under an emulator."""

import os
import shutil
import subprocess
import sys

import pytest
from places import ROOT, TESTS

EMULATED = {"Haswell": "haswell", "EPYC-Rome": "znver2"}
"""CPUs by the emulator's names and by LLVM's."""

needs_emulator = pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs Debian's qemu-user")


def emulator(name: str) -> tuple[str, ...]:
    """The command that runs another on a CPU."""
    return "qemu-x86_64", "-cpu", name


def printed(script: str, *arguments: object, command: tuple[str, ...] = (), **variables: str) -> str:
    """What a script beside this one prints, run by a fresh Python, which a command may run; fails the test with it."""
    done = subprocess.run(
        [*command, sys.executable, "-W", "ignore", TESTS / "support" / script, *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, (ROOT, TESTS))), **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
