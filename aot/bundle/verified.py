"""Which weights this user has seen whole on this machine, so that gigabytes are not hashed at every start.

A record is an empty file in the state directory of the user, named by the digest of what it speaks of: each weight
blob's digest, and the device, inode, size and times of its file. Whatever touches a file makes another name of it.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from aot import digest, directories
from aot.bundle import store
from aot.bundle.index.records import WeightsRecord
from aot.bundle.store import BLOBS, Identity
from aot.errors import AotError

log = logging.getLogger("aot")


Files = Mapping[str, Identity]
"""Which file was read as each blob, by its digest."""


def known(bundle: Path, weights: WeightsRecord, files: Files | None = None) -> bool:
    """Whether every weight blob of a bundle was found to have its digest: as it lies there now, or as it was read."""
    try:
        path = _record(bundle, weights, files)
        directories.check_directory(path.parent, "state")
        return path.exists()
    except AotError as error:
        log.warning("%s; the weights are checked once more", error)
        return False
    except OSError:
        return False


def remember(bundle: Path, weights: WeightsRecord, files: Files | None = None) -> None:
    """Notes that every weight blob was found to have its digest. Where that cannot be noted, it is checked again.

    Of the files that were hashed, which those that lie there now may no longer be; without them of the latter.
    """
    try:
        path = _record(bundle, weights, files)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        directories.check_directory(path.parent, "state")
        path.touch(mode=0o600)
    except (AotError, OSError) as error:
        log.info("cannot note that bundle %s was verified: %s", bundle, error)


def _record(bundle: Path, weights: WeightsRecord, files: Files | None) -> Path:
    """Raises OSError where a file is gone since the bundle was opened; whoever maps it will say so."""
    names = [blob.digest for blob in weights.blobs]
    found = [[name, *(_identity(bundle, name) if files is None else files[name])] for name in names]
    return (
        directories.directory_of("state") / "verified" / digest.hex_of(digest.digest_of(digest.canonical_json(found)))
    )


def _identity(bundle: Path, name: str) -> Identity:
    return store.identity((bundle / BLOBS / digest.hex_of(name)).stat())
