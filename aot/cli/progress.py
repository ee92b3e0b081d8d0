"""The progress of a command on stderr: a bar where a person watches, else a line a step, and one every half minute."""

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType

import click
from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from aot.builder import pace
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
        self._shown.stop()

    @contextlib.contextmanager
    def step(self, name: str, total: int | None, kept: int = 0) -> Iterator[pace.Progress]:
        """A step, which goes on until the context is left; others may go on meanwhile. Gives what hears of its parts.

        `total` is the number of these, where that is known; `kept` come from the cache.
        """
        if total is not None:
            self.counts[name] = total, kept
        step = self._shown.begin(name, total, kept)
        whole = False
        try:
            yield lambda detail, left=None, total=None: self._shown.advance(step, detail, left, total)
            whole = True
        finally:
            self._shown.end(step, whole)


class _Bars:
    """A line for each step, redrawn in place."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:8}", markup=False), Bar(), TimeElapsedColumn(), Remaining())
        detail = TextColumn("{task.fields[detail]}", markup=False)
        self._progress = Progress(*columns, detail, console=Console(stderr=True, **output.PLAIN))

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def begin(self, name: str, total: int | None, kept: int) -> TaskID:
        return self._progress.add_task(name, total=total, completed=kept, detail=_cached(kept), end=None)

    def advance(self, step: TaskID, detail: str, left: float | None, total: int | None) -> None:
        end = None if left is None else time.monotonic() + left
        self._progress.update(step, total=total, advance=1, detail=detail, end=end)

    def end(self, step: TaskID, is_whole: bool) -> None:
        """What was interrupted stays as far as it came."""
        (task,) = (task for task in self._progress.tasks if task.id == step)
        total = task.completed if is_whole and task.completed else task.total
        self._progress.update(step, total=total, detail="" if is_whole else "not finished", end=None)
        self._progress.stop_task(step)


class _Lines:
    """A line for each step, and another one whenever it has gone on for long."""

    def __init__(self) -> None:
        self._steps: dict[TaskID, _Step] = {}
        self._numbers = map(TaskID, itertools.count())
        self._ticks = _every_half_minute(self._now)

    def start(self) -> None:
        self._ticks.__enter__()

    def stop(self) -> None:
        self._ticks.__exit__(None, None, None)

    def begin(self, name: str, total: int | None, kept: int) -> TaskID:
        counted = name if total is None else f"{name} {total} {_PARTS.get(name, 'programs')}"
        click.echo(", ".join(filter(None, (counted, _cached(kept)))), err=True)
        step = next(self._numbers)
        self._steps[step] = _Step(name, total, kept)
        return step

    def advance(self, step: TaskID, detail: str, left: float | None, total: int | None) -> None:
        self._steps[step].done += 1
        self._steps[step].total = total or self._steps[step].total

    def end(self, step: TaskID, is_whole: bool) -> None:
        del self._steps[step]

    def _now(self) -> str:
        return "; ".join(map(str, list(self._steps.values())))


@dataclass
class _Step:
    """How far a step is."""

    name: str
    total: int | None
    done: int
    begun: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        counted = f"{self.done} of {self.total}" if self.total else str(self.done) if self.done else ""
        return " ".join(filter(None, (self.name, counted, f"after {_clock(time.monotonic() - self.begun)}")))


@contextlib.contextmanager
def _every_half_minute(words: Callable[[], str]) -> Iterator[None]:
    done = threading.Event()

    def tell() -> None:
        while not done.wait(EVERY):
            if said := words():  # between two steps there is nothing to say
                click.echo(f"still: {said}", err=True)

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
