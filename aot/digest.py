"""Canonical bytes and digests: the one spelling of a value, and the name of some bytes."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHUNK = 1 << 22


def digest_of(data: bytes | memoryview) -> str:
    """The digest of some bytes, `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def of_file(path: Path) -> str:
    """The digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return of_stream(file)


def of_stream(file: BinaryIO) -> str:
    """The digest of what is left to read of an open file, read in pieces."""
    hasher = hashlib.sha256()
    while piece := file.read(_CHUNK):
        hasher.update(piece)
    return "sha256:" + hasher.hexdigest()


def is_digest(text: object) -> bool:
    """Whether `text` is spelled as a digest; anything else never becomes a file name."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def hex_of(digest: str) -> str:
    """The 64 hex characters of a digest: a blob's file name."""
    assert is_digest(digest), digest
    return digest.removeprefix("sha256:")


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted names and no white space. 1, "1", 1.0 and true stay apart; tuples and lists do not.

    Raises ValueError for NaN and infinities, TypeError for names that are not strings and for other types.
    """
    return canonical_text(value).encode()


def canonical_text(value: Any) -> str:
    """Canonical JSON as text, in which names of files may not be UTF-8."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        if wrong := [name for name in value if not isinstance(name, str)]:
            raise TypeError(f"names must be strings, got {wrong[0]!r}")
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"no canonical form for {type(value).__name__}: {value!r}")


class HashingWriter:
    """Writes through to a file and knows the digest and the size of what went by."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hasher = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hasher.update(data)
        self.size += len(data) if isinstance(data, bytes) else data.nbytes

    @property
    def digest(self) -> str:
        return "sha256:" + self._hasher.hexdigest()
