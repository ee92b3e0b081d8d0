"""Worker processes: where programs are traced, lowered and compiled, each in an environment that we spell out.

What jax and XLA produce depends on variables and options that are read once for a process. A worker starts with
nothing of the caller's environment but the allow-list, and sets the rest itself.
"""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aot
from aot.builder import messages
from aot.builder.compiling import deviceless, emulation, pin
from aot.builder.messages import Advanced, Done, Failed, Logged
from aot.builder.pace import Progress
from aot.builder.reuse import cache
from aot.builder.tasks.task import Task
from aot.bundle import staging
from aot.errors import AotError

R = TypeVar("R")

_ALLOWED = (
    "PATH",
    "LD_LIBRARY_PATH",
    "TMPDIR",
)  # where programs, libraries and scratch space are; no output depends on them
_FIXED = {
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    **deviceless.ENVIRONMENT,
}
_FATAL = re.compile(r"^F\d{4} |Check failed: |LLVM ERROR|^Fatal Python error|terminate called|Assertion .* failed")
_FRAME = re.compile(r"\s+@ |\*\*\* |#\d+ |PC: @|\s+File |\s+what\(\): *$|Stack dump|PLEASE submit|\[0x")
"""How lines begin that tell where, and not why."""
_LOG_END = 1 << 24  # bytes that are searched for a cause: LLVM may have said a hundred thousand lines after it


class Worker:
    """One process that performs tasks in turn. A context manager: leaving it ends the process, perhaps once more."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        allowed = {name: os.environ[name] for name in _ALLOWED if name in os.environ}
        places = [str(Path(aot.__file__).resolve().parents[1]), *importable()]
        self._log = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115, closed with the worker
        self._scratch = contextlib.ExitStack()
        # locked for as long as this process lives; making one removes those of builders that were killed
        directory = self._scratch.enter_context(staging.directory(Path(tempfile.gettempdir(), "aot-worker")))
        self._process = subprocess.Popen(
            [*emulation.python(), "-s", "-P", "-m", "aot.builder.tasks.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=directory,
            env=allowed | _FIXED | {"PYTHONPATH": os.pathsep.join(places)} | dict(variables or {}),
            start_new_session=True,  # Ctrl-C reaches the builder alone, which then ends its workers
        )
        self._ended = False
        assert self._process.stdout is not None
        self._answers = messages.received(self._process.stdout, Advanced, Done, Failed, Logged)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # the worker leads a group, which holds its child as well
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # of a request that a dead worker did not take
                    stream.close()
        self._scratch.close()

    def request(
        self, task: Task[R], progress: Progress = lambda *_: None, take: Callable[[Any], None] = lambda _: None
    ) -> R:
        """The result of a task; `progress` hears of its parts, `take` gets those that are handed over as they come.

        Raises the AotError that the worker raised, or one with the last line of its log if it died.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(messages.packed(task.asked()))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death(task.name) from None
        for answer in self._answers:
            match answer:
                case Done(result):
                    self._log.seek(0)  # the worker writes through the same position, so this empties its log
                    self._log.truncate()
                    return messages.read(task.result(), result)
                case Failed():
                    raise answer.raised()
                case Logged(text):
                    cache.warn(text)
                case Advanced():
                    progress(answer.detail, answer.left, answer.total)
                    if answer.made is not None:
                        take(answer.made)
        raise self._death(task.name)

    def _death(self, name: str) -> AotError:
        code = self._process.wait()
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _LOG_END))
        log = self._log.read().decode(errors="replace")
        lines = [line for line in log.splitlines() if line.strip() and not pin.is_noise(line)]
        told = "killed, perhaps for want of memory" if code == -9 else cause_of_death(lines)
        return AotError(f"build: a worker ended during {name!r} with status {code}: {told}")


def importable() -> list[str]:
    """The directories from which the caller imports beside its own, absolute; none is where the process stands."""
    return [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def cause_of_death(lines: Sequence[str]) -> str:
    """The line of a log that says why its process died: what was fatal, else the last that is no frame of a stack."""
    fatal = [line for line in lines if _FATAL.search(line)]
    said = fatal[:1] or [line for line in lines if not _FRAME.match(line)][-1:] or lines[-1:]
    return said[0].strip() if said else "no message"
