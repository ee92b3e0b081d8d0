"""What stages of a build tell of how they go on, for tests that are no terminal."""

import contextlib
from collections.abc import Iterator

from aot.builder import pace


class Heard:
    """A `Report` that keeps the parts of all steps: seconds that are left, and how many there are."""

    def __init__(self) -> None:
        self.parts: list[tuple[float | None, int | None]] = []

    @contextlib.contextmanager
    def step(self, name: str, total: int | None, kept: int = 0) -> Iterator[pace.Progress]:
        yield self.advance

    def advance(self, detail: str, left: float | None = None, total: int | None = None) -> None:
        self.parts.append((left, total))
