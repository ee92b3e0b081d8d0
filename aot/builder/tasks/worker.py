"""The worker process: takes tasks from standard input, one at a time, and answers on standard output.

Started by `aot.builder.workers` alone. Whatever prints in here, a user's model included, goes to standard error.

A task that compiles runs in a child of its own, forked from a process that has imported jax and done nothing with it:
XLA numbers the modules of a process and stores the number, so what was compiled before would show in the bytes.
"""

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from aot import system
from aot.builder import messages
from aot.builder.messages import Advanced, Asked, Done, Failed, Logged
from aot.builder.tasks.task import Task, task_of
from aot.errors import AotError

Answer = Callable[[Advanced | Done | Failed | Logged], None]

_OF_ALL = ("jax.export", "jax.experimental.topologies", "scipy.linalg", "capstone", "elftools.elf.elffile")
"""What each task in a child would import, a third of a second: scipy for the LAPACK that jax registers."""


def main(parent: int) -> None:
    """Answers the requests of the process with this number, and ends with it."""
    system.end_with(parent)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def answer(message: Advanced | Done | Failed | Logged) -> None:
        answers.write(messages.packed(message))

    logging.getLogger("aot.cache").addHandler(_Told(answer))
    for asked in messages.received(sys.stdin.buffer, Asked, lists=True):
        task = task_of(asked)
        (_perform_apart if task.apart else _perform)(task, answer)


class _Told(logging.Handler):
    """Hands what is logged to the builder: nobody reads the log of a worker that does its task."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def emit(self, record: logging.LogRecord) -> None:
        self._answer(Logged(record.getMessage()))


def _perform(task: Task[Any], answer: Answer) -> None:
    try:
        result = task.perform(lambda *part: answer(Advanced(*part)))
    except AotError as error:
        answer(Failed.by(error))
    except OSError as error:
        place = f" {error.filename}:" if error.filename else ""
        answer(Failed.by(AotError(f"build:{place} {error.strerror or error}")))
    else:
        answer(Done(messages.plain(result)))


def _perform_apart(task: Task[Any], answer: Answer) -> None:
    """Performs a task in a child that answers itself; if it dies, so does this process, in the same way."""
    for module in _OF_ALL:
        importlib.import_module(module)
    here = os.getpid()
    if (child := os.fork()) == 0:
        status = 1
        try:
            system.end_with(here)
            _perform(task, answer)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        os.kill(os.getpid(), -code)
    if code:
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
