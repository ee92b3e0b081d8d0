"""Making room in the build cache, beside builds that use it."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aot.builder.reuse import cache
from aot.bundle import staging

_ENTRY = re.compile(r"[0-9a-f]{64}")
_BEGUN = 60.0  # seconds; a file that is empty for longer is left
_PARTIAL = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]{8}\.partial")


@dataclass(frozen=True)
class Rule:
    """What may stay of whole entries; None is no bound."""

    max_size: int | None = None
    """Bytes in all; the entries used last stay."""
    older_than: float | None = None
    """Seconds since the last use from which an entry goes."""


@dataclass(frozen=True)
class Swept:
    """What went and what stayed, in files and bytes."""

    removed: int
    removed_bytes: int
    kept: int
    kept_bytes: int


@dataclass(frozen=True)
class _File:
    path: Path
    bytes: int
    used: float


def sweep(root: Path, rule: Rule, dry_run: bool = False) -> Swept:
    """Removes leftovers of killed builds, damaged entries, and the entries that a rule does not let stay.

    A dry run removes nothing and tells the same. Raises AotError for a directory that is no safe cache.
    """
    cache.Cache(root)
    whole, spoilt = _found(root)
    going = [*spoilt, *_surplus(whole, rule)]
    for file in () if dry_run else going:
        with contextlib.suppress(FileNotFoundError):
            file.path.unlink()
    gone = sum(file.bytes for file in going)
    files = [*whole, *spoilt]
    return Swept(len(going), gone, len(files) - len(going), sum(file.bytes for file in files) - gone)


def _found(root: Path) -> tuple[list[_File], list[_File]]:
    """Entries, the one used last first; and what is none, but once was meant to be. Other files are not ours."""
    whole: list[_File] = []
    spoilt: list[_File] = []
    for path in sorted(root.glob("*/*")):
        with contextlib.suppress(FileNotFoundError):  # another sweep
            status = path.stat()
            file = _File(path, status.st_size, status.st_mtime)
            if _ENTRY.fullmatch(path.name):
                (whole if cache.parse_entry(path.name, path.read_bytes()) else spoilt).append(file)
            elif _PARTIAL.fullmatch(path.name) and not _is_begun(file) and _is_left(path):
                spoilt.append(file)
    return sorted(whole, key=lambda file: -file.used), spoilt


def _is_begun(file: _File) -> bool:
    """Whether somebody may have made a file and not locked it yet, which takes two steps."""
    return file.bytes == 0 and time.time() - file.used < _BEGUN


def _is_left(path: Path) -> bool:
    """Whether nobody is writing a file any more. Raises FileNotFoundError where it has become an entry meanwhile."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return staging.locked(descriptor) and path.stat().st_ino == os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def _surplus(entries: list[_File], rule: Rule) -> Iterator[_File]:
    now, total = time.time(), 0
    for file in entries:
        total += file.bytes
        too_old = rule.older_than is not None and now - file.used > rule.older_than
        if too_old or (rule.max_size is not None and total > rule.max_size):
            yield file
