"""The texts of portable programs, and where two of them part."""

import contextlib
import os
import re
import subprocess
from itertools import zip_longest

from aot import children
from aot.audit import words
from aot.audit.printing import Print, Printed
from aot.builder import messages

_LOCATION = re.compile(r"\s*\bloc\((?:[^()\"]|\"[^\"]*\"|\((?:[^()\"]|\"[^\"]*\")*\))*\)")
_LONGEST = 200  # characters of an operation that are shown; constants may be long


class Printer:
    """Gives the texts of programs, which another process prints: what a stranger made may end jax and its process.

    A context manager: leaving it ends that process, which starts with the first program.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._fault = ""

    def __enter__(self) -> "Printer":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def lines(self, program: bytes) -> list[str]:
        """The lines of a program's StableHLO, without locations. Raises ValueError for what this jax does not read.

        After a program that ended jax none is read any more: there may be thousands like it.
        """
        if self._fault:
            raise ValueError(self._fault)
        answer = self._asked(program)
        if answer.fault:
            raise ValueError(answer.fault)
        bare = (_LOCATION.sub("", line).strip() for line in answer.lines if not line.startswith("#loc"))
        return [line for line in bare if line]

    def _asked(self, program: bytes) -> Printed:
        if self._process is None:
            self._process = subprocess.Popen(
                children.child_command("aot.audit.printing", str(os.getpid())),
                env={**os.environ, **children.child_variables()},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        given, taken = self._process.stdin, self._process.stdout
        assert given is not None
        assert taken is not None
        with contextlib.suppress(BrokenPipeError):
            given.write(messages.packed(Print(program)))
            given.flush()
        if (answer := next(messages.received(taken, Printed), None)) is None:
            self._fault = f"the installed jax ends its process over a program (status {self._process.wait()})"
            return Printed((), self._fault)
        return answer


def first_difference(a: list[str], b: list[str]) -> tuple[str, str] | None:
    """The first operation of each text that is not the other's; None where the texts are equal."""
    for ours, theirs in zip_longest(a, b, fillvalue="the end"):
        if ours != theirs:
            return words.parted(ours, theirs, _LONGEST)
    return None
