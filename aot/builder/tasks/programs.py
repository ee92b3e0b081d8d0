"""Lowers the programs of a plan, in a worker, or counts them."""

from dataclasses import dataclass
from pathlib import Path

from aot.builder.lowering import lower
from aot.builder.lowering.lower import Counted, Lowered
from aot.builder.pace import Progress
from aot.builder.reuse.cache import Cache
from aot.builder.reuse.stored import Programs
from aot.builder.tasks.task import Task
from aot.bundle.writer import Writer
from aot.plan import Plan


@dataclass(frozen=True)
class Lower(Task[Lowered]):
    """Lowers every program of a plan, or of one of its combos, into the blobs of a staged bundle."""

    name = "lower"

    plan: Plan
    staging: Path
    key: str | None = None
    cache: Path | None = None
    """Where programs are kept; without it each is lowered."""

    def perform(self, progress: Progress) -> Lowered:
        """All that lowering adds to the index."""
        writer = Writer.join(self.staging)
        if self.cache is None:
            return lower.lower_programs(self.plan, writer, progress, self.key)
        kept = Programs(Cache(self.cache), writer, self.plan.allow_custom_calls)
        return lower.lower_programs(self.plan, writer, progress, self.key, kept.get)


@dataclass(frozen=True)
class Count(Task[Counted]):
    """Counts the programs of a plan; nothing is lowered."""

    name = "count"

    plan: Plan

    def perform(self, progress: Progress) -> Counted:
        """What the plan takes."""
        return lower.count_programs(self.plan, progress)
