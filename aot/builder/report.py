"""Who hears how a build goes on."""

from typing import Protocol


class Report(Protocol):
    """Hears how a build goes on."""

    def step(self, name: str, total: int | None, kept: int = 0) -> None:
        """A step begins; `total` is the number of its parts, where that is known, `kept` come from the cache."""

    def advance(self, detail: str, left: float | None = None, total: int | None = None) -> None:
        """A part of the step is done; the rest takes `left` seconds, `total` is what turned out to be its parts."""
