"""The progress of a build on stderr: a bar where a person watches, a line a step where none does."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

_PARTS = {"golden": "entries"}
"""What is counted in a step, where it is not programs."""
_PATIENCE = 5.0
"""Seconds without a word."""


class Remaining(ProgressColumn):
    """Counts down to the end of a step, from when that was last foretold."""

    def render(self, task: Task) -> Text:
        end: float | None = task.fields["end"]
        if end is None or task.finished:
            return Text("")
        minutes, seconds = divmod(max(0, round(end - time.monotonic())), 60)
        return Text(f"{minutes}:{seconds:02d} left", style="progress.remaining")


class Patience:
    """Hears how the combos of a plan are counted: a bar where a person watches, else a word where it takes a while."""

    def __init__(self, display: "Display", combos: int) -> None:
        self._display, self._combos, self._done = display, combos, 0
        self._next: float | None = None
        if display.watched:
            display.step("count", combos)

    def __call__(self, detail: str, left: float | None = None, total: int | None = None) -> None:
        """One more combo is counted; the rest takes `left` seconds."""
        self._done += 1
        self._display.advance(detail, left, total)
        now = time.monotonic()
        if self._next is None:  # what a worker takes to start does not grow with a plan
            self._next = now + _PATIENCE
        if not self._display.watched and self._done < self._combos and now > self._next:
            self._next = now + _PATIENCE
            self._display.say(f"count {self._done} of {self._combos} combos, {left or 0:.0f} s left")


class Display:
    """A `Report` of `aot.builder.build`. A context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (SpinnerColumn(), TextColumn("{task.description:8}"), BarColumn(24), MofNCompleteColumn())
        detail = TextColumn("{task.fields[detail]}")
        self._progress = Progress(*columns, TimeElapsedColumn(), Remaining(), detail, console=self._console)

    @property
    def watched(self) -> bool:
        """Whether a person watches."""
        return self._console.is_terminal

    def say(self, line: str) -> None:
        """Prints a line of its own."""
        self._console.print(line, soft_wrap=True)

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._finish()
            self._progress.stop()

    def step(self, name: str, total: int | None, kept: int = 0) -> None:
        """A step begins; `total` is the number of its parts, where that is known, `kept` come from the cache."""
        cached = f"{kept} from the cache" if kept else ""
        if not self._console.is_terminal:
            counted = name if total is None else f"{name} {total} {_PARTS.get(name, 'programs')}"
            self._console.print(", ".join(filter(None, (counted, cached))), soft_wrap=True)
            return
        self._finish()
        self._progress.add_task(name, total=total, completed=kept, detail=cached, end=None)

    def advance(self, detail: str, left: float | None = None, total: int | None = None) -> None:
        """A part of the step is done; the rest takes `left` seconds, `total` is what turned out to be its parts."""
        if self._console.is_terminal:
            end = None if left is None else time.monotonic() + left
            self._progress.update(self._progress.task_ids[-1], total=total, advance=1, detail=detail, end=end)

    def _finish(self) -> None:
        for task in self._progress.tasks[-1:]:
            self._progress.update(task.id, total=task.completed, detail="", end=None)
