"""Hashes files, in a worker: so long as that takes, whoever waits for it can end it."""

from dataclasses import dataclass
from pathlib import Path

from aot import digest
from aot.builder.pace import Progress
from aot.builder.tasks.task import Task


@dataclass(frozen=True)
class HashFiles(Task[tuple[str, ...]]):
    """The digests of some files."""

    name = "hash"

    paths: tuple[Path, ...]

    def perform(self, progress: Progress) -> tuple[str, ...]:
        """The digests in their order."""
        return tuple(map(digest.of_file, self.paths))
