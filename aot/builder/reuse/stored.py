"""Programs that an earlier build lowered, taken from the cache instead of being lowered again."""

from collections.abc import Callable
from dataclasses import dataclass

from aot.builder.lowering.layouts import Placed
from aot.builder.reuse import identity
from aot.builder.reuse.cache import Cache
from aot.bundle.index import codec
from aot.bundle.index.records import ProgramRecord
from aot.bundle.writer import Writer


@dataclass(frozen=True)
class Programs:
    """The programs of a cache, for those who write with a writer and waive some custom calls."""

    cache: Cache
    writer: Writer
    waivers: tuple[str, ...]

    def get(self, placed: Placed, lower: Callable[[], ProgramRecord]) -> ProgramRecord:
        """The record of a program, its bytes in the writer; lowered, and kept, where the cache has none."""
        if (factors := identity.program(placed, self.waivers)) is None:
            return lower()
        if kept := self.cache.read(factors):
            self.writer.add(kept.data)
            return codec.restored(ProgramRecord, kept.record)
        made = lower()
        self.cache.write(factors, codec.plain(made), self.writer.read(made.digest))
        return made
