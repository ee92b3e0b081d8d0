"""Where a bundle goes: what is there already, whether it may be replaced, and whether it is the very same."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aot import digest
from aot.builder.compiling import tuning
from aot.builder.stages import executables
from aot.bundle import store
from aot.bundle.index import codec
from aot.bundle.index.records import Index, ProgramRecord
from aot.bundle.store import Bundle
from aot.bundle.writer import occupied
from aot.errors import BundleError, InputError, MachineError
from aot.targets import Target


@dataclass(frozen=True)
class Destination:
    """A place for a bundle, where nothing is in the way, or may be replaced."""

    path: Path
    bundle: Bundle | None
    """A bundle that is there and may not be replaced: the new one has to be the same."""

    @classmethod
    def of(cls, path: Path, replace: bool, force: bool) -> "Destination":
        """Raises InputError for a place that cannot be taken, or holds what may not be replaced."""
        if os.path.ismount(path):
            raise InputError(f"{path}: is a mount point, in whose place nothing can be put; name a directory below it")
        if force or not os.path.lexists(path):
            return cls(path, None)
        try:
            found = store.open(path)
            beside = sorted(set(os.listdir(path)) - store.NAMES)
        except MachineError as error:  # of a newer format
            if not replace:
                raise occupied(path) from error
            return cls(path, None)
        except (InputError, BundleError) as error:
            raise InputError(
                f"{path}: exists already and is no bundle; replace it with --force or name another"
            ) from error
        if replace and beside:
            raise InputError(
                f"{path}: holds {beside[0]!r} beside a bundle; replace all of it with --force, or move that"
            )
        return cls(path, None if replace else found)

    def expect(self, **fields: Any) -> None:
        """Raises InputError where a bundle that is there has other fields in its index than the new one will have."""
        self._compare(fields, lambda index: {name: getattr(index, name) for name in fields})

    def expect_programs(self, programs: Sequence[ProgramRecord], targets: Sequence[Target]) -> None:
        """Raises InputError where the new bundle will have other programs, or executables for other targets."""
        made = [[p.digest, [tuning.without(t).plain() for t in targets if executables.is_for(p, t)]] for p in programs]
        self._compare(made, lambda index: [[p.digest, [e.target for e in p.executables]] for p in index.programs])

    def _compare(self, made: Any, read: Callable[[Index], Any]) -> None:
        if self.bundle is None:
            return
        try:
            there = read(self.bundle.index)
            same = digest.canonical_json(codec.plain(there)) == digest.canonical_json(codec.plain(made))
        except BundleError:  # a row that cannot be read
            same = False
        if not same:
            raise occupied(self.path)

    def keep(self, *paths: Path | None) -> None:
        """Raises InputError where one of these, or the working directory, would go with what is replaced."""
        replaced = self.bundle is None and os.path.lexists(self.path)
        for kept in filter(None, (Path.cwd(), *paths)):
            if replaced and kept.resolve().is_relative_to(self.path.resolve()):
                raise InputError(f"{self.path}: holds {str(kept)!r}, which would be removed; name another directory")
