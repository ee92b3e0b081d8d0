"""Which weights this user has seen whole on this machine, so that gigabytes are not hashed at every start.

A record is an empty file in the state directory of the user, named by the digest of what it speaks of: each weight
blob's digest, and the device, inode, size and times of its file. Whatever touches a file makes another name of it.
"""

import logging
import os
from pathlib import Path

from aot import digest
from aot.bundle.records import WeightsRecord
from aot.bundle.store import BLOBS

log = logging.getLogger("aot")


def known(bundle: Path, weights: WeightsRecord) -> bool:
    """Whether every weight blob of a bundle, as it lies there now, was found to have its digest."""
    path = _record(bundle, weights)
    try:
        return path is not None and _private(path.parent) and path.exists()
    except OSError:
        return False


def remember(bundle: Path, weights: WeightsRecord) -> None:
    """Notes that every weight blob was found to have its digest. Where that cannot be noted, it is checked again."""
    path = _record(bundle, weights)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _private(path.parent):
            path.touch(mode=0o600)
    except OSError as error:
        log.info("%s: cannot note that bundle %s was verified: %s", path.parent, bundle, error.strerror)


def directory() -> Path | None:
    """`$AOT_STATE_DIR`, or `aot` in the user's state directory (XDG Base Directory Specification)."""
    if own := os.environ.get("AOT_STATE_DIR"):
        return Path(own)
    home = os.environ.get("HOME")
    base = os.environ.get("XDG_STATE_HOME") or (home and str(Path(home, ".local", "state")))
    return Path(base, "aot") if base and os.path.isabs(base) else None


def _record(bundle: Path, weights: WeightsRecord) -> Path | None:
    home = directory()
    if home is None:
        return None
    try:
        files = [[blob.digest, *_identity(bundle, blob.digest)] for blob in weights.blobs]
    except OSError:  # gone since it was opened; whoever maps it will say so
        return None
    return home / "verified" / digest.hex_of(digest.of(digest.canonical_json(files)))


def _identity(bundle: Path, name: str) -> tuple[int, ...]:
    found = (bundle / BLOBS / digest.hex_of(name)).stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _private(path: Path) -> bool:
    """Whether nobody else could have written there."""
    found = path.stat()
    if found.st_uid == os.geteuid() and not found.st_mode & 0o022:
        return True
    log.warning("%s: others can write there, so it is not believed; change its owner, or its mode to 0700", path)
    return False
