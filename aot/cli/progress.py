"""The progress of a build on stderr: a bar where a person watches, a line a step where none does."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Display:
    """A `Report` of `aot.builder.build`. A context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (SpinnerColumn(), TextColumn("{task.description:8}"), BarColumn(24), MofNCompleteColumn())
        self._progress = Progress(
            *columns, TimeElapsedColumn(), TextColumn("{task.fields[detail]}"), console=self._console
        )

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

    def step(self, name: str, total: int | None) -> None:
        """A step begins; `total` is the number of its parts, where that is known."""
        if not self._console.is_terminal:
            self._console.print(name if total is None else f"{name} {total} programs")
            return
        self._finish()
        self._progress.add_task(name, total=total, detail="")

    def advance(self, detail: str) -> None:
        """A part of the step is done."""
        if self._console.is_terminal:
            self._progress.update(self._progress.task_ids[-1], advance=1, detail=detail)

    def _finish(self) -> None:
        for task in self._progress.tasks[-1:]:
            self._progress.update(task.id, total=task.completed, detail="")
