"""Which weights this user has seen whole on this machine, so that gigabytes are not hashed at every start.

A record is an empty file in the state directory of the user, named by the digest of what it speaks of: each weight
blob's digest, and the device, inode, size and times of its file. Whatever touches a file makes another name of it.
"""

import logging
from pathlib import Path

from aot import digest, directories
from aot.bundle.records import WeightsRecord
from aot.bundle.store import BLOBS
from aot.errors import AotError

log = logging.getLogger("aot")


def known(bundle: Path, weights: WeightsRecord) -> bool:
    """Whether every weight blob of a bundle, as it lies there now, was found to have its digest."""
    try:
        path = _record(bundle, weights)
        directories.check(path.parent, "state")
        return path.exists()
    except AotError as error:
        log.warning("%s; the weights are checked once more", error)
        return False
    except OSError:
        return False


def remember(bundle: Path, weights: WeightsRecord) -> None:
    """Notes that every weight blob was found to have its digest. Where that cannot be noted, it is checked again."""
    try:
        path = _record(bundle, weights)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        directories.check(path.parent, "state")
        path.touch(mode=0o600)
    except (AotError, OSError) as error:
        log.info("cannot note that bundle %s was verified: %s", bundle, error)


def _record(bundle: Path, weights: WeightsRecord) -> Path:
    """Raises OSError where a file is gone since the bundle was opened; whoever maps it will say so."""
    files = [[blob.digest, *_identity(bundle, blob.digest)] for blob in weights.blobs]
    return directories.of("state") / "verified" / digest.hex_of(digest.of(digest.canonical_json(files)))


def _identity(bundle: Path, name: str) -> tuple[int, ...]:
    found = (bundle / BLOBS / digest.hex_of(name)).stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
