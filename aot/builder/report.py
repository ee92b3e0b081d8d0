"""Who hears how a build goes on."""

from contextlib import AbstractContextManager
from typing import Protocol

from aot.builder.pace import Progress


class Report(Protocol):
    """Hears how a build goes on."""

    def step(self, name: str, total: int | None, kept: int = 0) -> AbstractContextManager[Progress]:
        """A step, which goes on until the context is left; others may go on meanwhile. Gives what hears of its parts.

        `total` is the number of these, where that is known; `kept` come from the cache.
        """
