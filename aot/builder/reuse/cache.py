"""The build cache: what builds have made, kept by what decides its bytes, so that no build makes it again.

An entry is a file, named by the digest of its factors (`aot.builder.reuse.identity`): a line with that name and the
digest of what follows, then msgpack. It comes into being by one rename and is never changed, so builds share a cache
without waiting for each other, and one that is killed leaves at most a file under a name of no entry.
"""

import contextlib
import fcntl
import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from aot import digest, directories
from aot.errors import AotError
from aot.replacing import replacing

log = logging.getLogger("aot.cache")

# Versions of an entry's spelling; one of another version is no entry:
# 1: the first.
_MAGIC = b"aot-cache 1"

Factors = Mapping[str, Any]


@dataclass(frozen=True)
class Kept:
    """An entry: a record as `codec.plain` gives it, and the bytes that it speaks of."""

    record: Any
    data: bytes


def location() -> Path:
    """Where the user's cache is. Raises AotError for a user without a home."""
    return directories.directory_of("cache")


def own() -> "Cache | None":
    """The user's cache; for a user without a home none, and a line says so."""
    try:
        root = location()
    except AotError as error:
        warn(f"{error}; what is built is not kept for the next build")
        return None
    return Cache(root)


@functools.cache
def warn(message: str) -> None:
    """Says something of a cache, once: a builder and each of its workers find out for themselves."""
    log.warning("%s", message)


class Cache:
    """The entries below a directory, which need not be there yet.

    Raises AotError for a directory that is another user's or that others can write: what is in it would be run.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._writable = True
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            _check_private(root)

    def read(self, factors: Factors) -> Kept | None:
        """What was kept under some factors. A damaged entry is removed, and is none."""
        path = self._path(factors)
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        if (kept := parse_entry(path.name, raw)) is None:
            warn(f"cache {self.root}: entry {path.name[:12]}… is damaged; removed, it is made again")
        with contextlib.suppress(OSError):  # a cache that cannot be written serves all the same
            os.utime(path) if kept else path.unlink()
        return kept

    def write(self, factors: Factors, record: Any, data: bytes) -> None:
        """Keeps something; where the file system refuses that, a line says so, once."""
        if not self._writable:
            return
        path = self._path(factors)
        payload = msgpack.packb({"factors": digest.canonical_json(factors), "record": record, "data": data})
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with replacing(path, 0o600) as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # for as long as a builder is at work on it
                stream.write(_head(path.name, payload) + payload)
        except (FileNotFoundError, BlockingIOError):  # `aot gc` took the file for a leftover: one entry less
            return
        except OSError as error:
            self._writable = False
            cause = (error.strerror or str(error)).lower()
            warn(f"cache {self.root}: {cause}; what is built is not kept for the next build")

    def _path(self, factors: Factors) -> Path:
        return self.root / factors["kind"] / digest.hex_of(digest.digest_of(digest.canonical_json(factors)))


def parse_entry(name: str, raw: bytes) -> Kept | None:
    """The entry of this name in some bytes; None where they are not one, or damaged."""
    head, end, payload = raw.partition(b"\n")
    if head + end != _head(name, payload):
        return None
    fields = msgpack.unpackb(payload, use_list=False)
    return Kept(fields["record"], fields["data"])


def _head(name: str, payload: bytes) -> bytes:
    return b"%s %s %s\n" % (_MAGIC, name.encode(), digest.digest_of(payload).encode())


def _check_private(root: Path) -> None:
    for path in (root, *filter(Path.is_dir, root.iterdir())):
        directories.check_directory(path, "cache")
