"""The worker process: takes requests from standard input, one at a time, and answers on standard output, in msgpack.

Started by `aot.builder.workers` alone. Whatever prints in here, a user's model included, goes to standard error.

A task that compiles runs in a child of its own, forked from a process that has imported jax and done nothing with it:
XLA numbers the modules of a process and stores the number, so what was compiled before would show in the bytes.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aot import system
from aot.builder import messages
from aot.builder.pace import Progress
from aot.bundle.index import codec
from aot.bundle.writer import Writer
from aot.errors import AotError
from aot.targets import CudaTarget, target_of

Answer = Callable[[str, Any], None]


def main(parent: int) -> None:
    """Answers the requests of the process with this number, and ends with it."""
    system.end_with(parent)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def answer(kind: str, content: Any) -> None:
        answers.write(messages.packed((kind, content)))

    logging.getLogger("aot.cache").addHandler(_Told(answer))
    for request in messages.received(sys.stdin.buffer):
        if request["task"] in _APART:
            _apart(request, answer)
        else:
            _perform(request, answer)


class _Told(logging.Handler):
    """Hands what is logged to the builder: nobody reads the log of a worker that does its task."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def emit(self, record: logging.LogRecord) -> None:
        self._answer("log", record.getMessage())


def _perform(request: dict[str, Any], answer: Answer) -> None:
    try:
        result = _TASKS[request["task"]](lambda *step: answer("progress", step), **request["arguments"])
    except AotError as error:
        answer("error", (type(error).__name__, str(error)))
    except OSError as error:
        place = f" {error.filename}:" if error.filename else ""
        answer("error", ("AotError", f"build:{place} {error.strerror or error}"))
    else:
        answer("result", codec.plain(result))


def _apart(request: dict[str, Any], answer: Answer) -> None:
    """Performs a request in a child that answers itself; if it dies, so does this process, in the same way."""
    import jax.export  # noqa: F401, here once and not in each child

    here = os.getpid()
    if (child := os.fork()) == 0:
        status = 1
        try:
            system.end_with(here)
            _perform(request, answer)
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


def _lower(progress: Progress, plan: str, staging: str, key: str | None = None, cache: str | None = None) -> Any:
    from aot.builder.lowering import lower
    from aot.builder.reuse import stored
    from aot.builder.reuse.cache import Cache

    made, writer = _plan(plan), Writer.join(Path(staging))
    if cache is None:
        return lower.lower_programs(made, writer, progress, key)
    kept = stored.Programs(Cache(Path(cache)), writer, made.allow_custom_calls)
    return lower.lower_programs(made, writer, progress, key, kept.get)


def _reexport(progress: Progress, programs: Any, waivers: tuple[str, ...], staging: str) -> Any:
    from aot.builder.tasks import reexport

    return reexport.reexport_programs(programs, waivers, Writer.join(Path(staging)), progress)


def _compile(progress: Progress, program: str, mesh: Any, target: dict[str, Any], staging: str) -> Any:
    from aot.builder.compiling import compile

    return compile.executable(program, mesh, target_of(target), Writer.join(Path(staging)))


def _tune(progress: Progress, program: str, mesh: Any, target: dict[str, Any], staging: str) -> Any:
    from aot.builder.tasks import tune

    made = target_of(target)
    assert isinstance(made, CudaTarget)
    return tune.choose_on_device(program, mesh, made, Writer.join(Path(staging)))


def _replay(progress: Progress, bundle: str, golden: bytes) -> Any:
    from aot.builder.tasks import golden as goldens

    return goldens.replayed(Path(bundle), golden, progress)


def _weights(progress: Progress, plan: str, staging: str, held: Any = None) -> Any:
    from aot.builder.tasks import weights
    from aot.builder.workers import decoded
    from aot.bundle.index.records import WeightsRecord

    known = None if held is None else decoded(WeightsRecord, held)
    return weights.write_weights(_plan(plan), Writer.join(Path(staging)), progress, known)


def _measure(progress: Progress, plan: str) -> Any:
    from aot.builder.tasks import weights

    return weights.measure_weights(_plan(plan), progress)


def _count(progress: Progress, plan: str) -> Any:
    from aot.builder.lowering import lower

    return lower.count_programs(_plan(plan), progress)


def _tokenizer(progress: Progress, directory: str) -> Any:
    from aot.builder.tasks import tokenizer

    return tokenizer.convert(Path(directory))


def _imported(progress: Progress, plan: str) -> Any:
    from aot.builder.tasks import imports

    return imports.imported(_plan(plan))


def _golden(progress: Progress, bundle: str, kept: Any, missing: Any, cache: str | None) -> Any:
    from aot.builder.reuse.cache import Cache
    from aot.builder.tasks import golden

    return golden.run_missing(Path(bundle), kept, missing, progress, None if cache is None else Cache(Path(cache)))


def _loss(progress: Progress, plan: str) -> Any:
    from aot.builder.tasks import loss

    return loss.measured(_plan(plan))


def _plan(text: str) -> Any:
    from aot.plan import Plan

    return Plan.from_json(text)


_TASKS: dict[str, Callable[..., Any]] = {
    "lower": _lower,
    "reexport": _reexport,
    "replay": _replay,
    "compile": _compile,
    "tune": _tune,
    "weights": _weights,
    "measure": _measure,
    "count": _count,
    "tokenizer": _tokenizer,
    "imported": _imported,
    "golden": _golden,
    "loss": _loss,
}
_APART = {"compile", "tune"}

if __name__ == "__main__":
    main(int(sys.argv[1]))
