"""The progress of a command on stderr: a bar where a person watches, else a line a step, and one every half minute."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

import click
from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from aot.cli import output

_PARTS = {"golden": "entries"}
"""What is counted in a step, where it is not programs."""
_WIDTH = 24
EVERY = 30.0
"""Seconds after which a line says what goes on, where nobody sees a bar."""


def is_watched() -> bool:
    """Whether stderr is a terminal that can redraw; variables as FORCE_COLOR, which rich obeys, make none of a file."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


@contextlib.contextmanager
def show_waiting(text: str) -> Iterator[Callable[[str], None]]:
    """Says what goes on in work whose parts are not counted; what it gives changes the words."""
    if is_watched():
        with Console(stderr=True, **output.PLAIN).status(Text(text)) as status:
            yield lambda words: status.update(Text(words))
        return
    said = [text]
    with _every_half_minute(lambda: said[0]):
        yield lambda words: said.__setitem__(0, words)


class Remaining(ProgressColumn):
    """Counts down to the end of a step, from when that was last foretold."""

    def render(self, task: Task) -> Text:
        end: float | None = task.fields["end"]
        if end is None or task.finished:
            return Text("")
        return Text(f"{_clock(max(0.0, end - time.monotonic()))} left", style="progress.remaining")


class Bar(ProgressColumn):
    """A bar, and the parts that are done and all of them; nothing for a step whose parts are not known."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        done = int(_WIDTH * task.completed / task.total) if task.total else _WIDTH
        left = _WIDTH - done
        return Text.assemble(("━" * done, "bar.complete"), ("━" * left, "bar.back"), f" {task.completed}/{task.total}")


class Display:
    """A `Report` of `aot.builder.report`. A context manager."""

    def __init__(self) -> None:
        self._shown: _Bars | _Lines = _Bars() if is_watched() else _Lines()
        self.counts: dict[str, tuple[int, int]] = {}
        """The parts of each step for which that is known, and how many of them came from the cache."""

    def __enter__(self) -> "Display":
        self._shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.stop(is_whole=kind is None)

    def step(self, name: str, total: int | None, kept: int = 0) -> None:
        """A step begins; `total` is the number of its parts, where that is known, `kept` come from the cache."""
        if total is not None:
            self.counts[name] = total, kept
        self._shown.step(name, total, kept)

    def advance(self, detail: str, left: float | None = None, total: int | None = None) -> None:
        """A part of the step is done; the rest takes `left` seconds, `total` is what turned out to be its parts."""
        self._shown.advance(detail, left, total)


class _Bars:
    """A line for each step, redrawn in place."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:8}", markup=False), Bar(), TimeElapsedColumn(), Remaining())
        detail = TextColumn("{task.fields[detail]}", markup=False)
        self._progress = Progress(*columns, detail, console=Console(stderr=True, **output.PLAIN))

    def start(self) -> None:
        self._progress.start()

    def stop(self, is_whole: bool) -> None:
        """What was interrupted stays as far as it came."""
        self._finish("" if is_whole else "not finished", is_whole)
        self._progress.stop()

    def step(self, name: str, total: int | None, kept: int) -> None:
        self._finish("", True)
        self._progress.add_task(name, total=total, completed=kept, detail=_cached(kept), end=None)

    def advance(self, detail: str, left: float | None, total: int | None) -> None:
        end = None if left is None else time.monotonic() + left
        self._progress.update(self._progress.task_ids[-1], total=total, advance=1, detail=detail, end=end)

    def _finish(self, detail: str, is_whole: bool) -> None:
        for task in self._progress.tasks[-1:]:
            total = task.completed if is_whole and task.completed else task.total
            self._progress.update(task.id, total=total, detail=detail, end=None)
            self._progress.stop_task(task.id)


class _Lines:
    """A line for each step, and another one whenever it has gone on for long."""

    def __init__(self) -> None:
        self._step: tuple[str, int, int | None, float] = "", 0, None, time.monotonic()
        self._ticks = _every_half_minute(self._now)

    def start(self) -> None:
        self._ticks.__enter__()

    def stop(self, is_whole: bool) -> None:
        self._ticks.__exit__(None, None, None)

    def step(self, name: str, total: int | None, kept: int) -> None:
        self._step = name, kept, total, time.monotonic()
        counted = name if total is None else f"{name} {total} {_PARTS.get(name, 'programs')}"
        click.echo(", ".join(filter(None, (counted, _cached(kept)))), err=True)

    def advance(self, detail: str, left: float | None, total: int | None) -> None:
        name, done, known, begin = self._step
        self._step = name, done + 1, known if total is None else total, begin

    def _now(self) -> str:
        name, done, total, begin = self._step
        counted = f"{done} of {total}" if total else str(done) if done else ""
        return " ".join(filter(None, (name, counted, f"after {_clock(time.monotonic() - begin)}")))


@contextlib.contextmanager
def _every_half_minute(words: Callable[[], str]) -> Iterator[None]:
    done = threading.Event()

    def tell() -> None:
        while not done.wait(EVERY):
            click.echo(f"still: {words()}", err=True)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _cached(kept: int) -> str:
    return f"{kept} from the cache" if kept else ""


def _clock(seconds: float) -> str:
    return "{}:{:02d}".format(*divmod(round(seconds), 60))
