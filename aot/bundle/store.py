"""A bundle directory, opened for reading: its index, its blobs, and whether every byte is as it was built."""

import contextlib
import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aot import digest
from aot.bundle import codec, oci, weights
from aot.bundle.records import Index
from aot.errors import AotError, BundleError, InputError

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""
Admit = Callable[[Path, oci.Manifest, bytes | None], None]
"""Called with a bundle's path, its image manifest and the signature, None where it has none, before its index is
parsed. Raises BundleError for one that is not to be trusted."""

BLOBS = Path("blobs", "sha256")
_ADVICE = "fetch it again or rebuild"
_JSON_LIMIT = 1 << 20
_MANIFEST_LIMIT = 1 << 24
_INDEX_LIMIT = 1 << 28
_SIGNATURE_LIMIT = 1 << 26


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Its digest, which is its index's, is checked; a blob is when it is read."""

    path: Path
    index: Index
    digest: str
    manifest: oci.Manifest
    manifest_digest: str

    @property
    def attachments(self) -> Mapping[str, oci.Descriptor]:
        """What speaks about the bundle, by kind: provenance, golden, loss, signature."""
        return self.manifest.attachments

    @property
    def blobs(self) -> frozenset[str]:
        """The digests of all its blobs, the index and the image manifest among them."""
        return frozenset({self.digest, self.manifest_digest, *(layer.digest for layer in self.manifest.layers)})

    def read(self, name: str, size: int) -> bytes:
        """The bytes of a blob, checked against its digest."""
        return _read_blob(self.path, name, size)

    def attachment(self, kind: str) -> bytes | None:
        """The bytes of an attachment, checked against its digest; None where the bundle has none of this kind."""
        found = self.attachments.get(kind)
        return None if found is None else self.read(found.digest, found.size)

    def map(self, name: str, size: int) -> memoryview:
        """A blob as a read-only memory map, of the right size and otherwise unchecked. Its `obj` is the `mmap`."""
        with _blob(self.path, name, size) as descriptor, _faults(f"bundle {self.path}: blob {_short(name)}"):
            return memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) if size else b"")

    def check(self, name: str) -> None:
        """Hashes a blob. Raises BundleError unless its bytes have its digest."""
        path = self.path / BLOBS / digest.hex_of(name)
        with _blob(self.path, name, None), _faults(f"bundle {self.path}: blob {_short(name)}"):
            found = digest.of_file(path)
        _match(self.path, name, found)


def open(path: Path, admit: Admit | None = None) -> Bundle:
    """Opens a bundle to serve from it: reads its index, and sees that each blob has a file.

    Programs and chains of the index are checked when they are used, blobs when they are read. Raises InputError where
    there is no bundle, BundleError for a broken one or one that is not admitted, MachineError for a newer format.
    """
    place = f"bundle {path}"
    _find(path)
    oci.read_layout(_read(path / "oci-layout", f"{place}: oci-layout"), f"{place}: oci-layout")
    entry = oci.read_index(_read(path / "index.json", f"{place}: index.json"), f"{place}: index.json")
    _limit(place, "image manifest", entry.size, _MANIFEST_LIMIT)
    manifest = oci.read_manifest(_read_blob(path, entry.digest, entry.size), f"{place}: image manifest")
    if admit:
        admit(path, manifest, _signature(path, manifest))
    config = manifest.config
    _limit(place, "index", config.size, _INDEX_LIMIT)
    index = codec.decode(_read_blob(path, config.digest, config.size), f"{place}: index")
    _check_there(path, manifest.names)
    return Bundle(path, index, config.digest, manifest, entry.digest)


def inspect(path: Path, admit: Admit | None = None) -> Bundle:
    """Opens a bundle and checks all its records, and that each blob is there in its size, but not what is in them.

    Raises as `open`.
    """
    bundle = open(path, admit)
    codec.check(bundle.index, bundle.digest, f"bundle {path}: index")
    _check_layers(bundle)
    return bundle


def verify(path: Path, progress: Progress | None = None, admit: Admit | None = None) -> Bundle:
    """Opens a bundle, and checks that every byte in it is as it was built.

    Raises as `open`, and BundleError for the first blob that is damaged, for weights that are not as the index says
    and for files that do not belong to the bundle.
    """
    bundle = inspect(path, admit)
    _check_surplus(path, set(map(digest.hex_of, bundle.blobs)))
    layers = bundle.manifest.layers
    done, total = 0, sum(layer.size for layer in layers)
    for layer in layers:
        bundle.check(layer.digest)
        done += layer.size
        if progress:
            progress(done, total)
    for position, blob in enumerate(bundle.index.weights.blobs):
        where = f"bundle {path}: blob {_short(blob.digest)}"
        weights.agree(weights.table(bundle.map(blob.digest, blob.bytes), where), bundle.index.weights, position, where)
    return bundle


def _signature(path: Path, manifest: oci.Manifest) -> bytes | None:
    found = manifest.attachments.get("signature")
    if found is None:
        return None
    _limit(f"bundle {path}", "signature", found.size, _SIGNATURE_LIMIT)
    return _read_blob(path, found.digest, found.size)


def _find(path: Path) -> None:
    place = f"bundle {path}"
    try:
        is_directory = stat.S_ISDIR(path.stat().st_mode)
        found = is_directory and "oci-layout" in os.listdir(path)
    except PermissionError as error:
        raise AotError(f"{place}: no permission to read it; change its mode or its owner") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: there is nothing at this path; build it or name another") from error
    if not found:
        kind = "a directory without 'oci-layout'" if is_directory else "no directory"
        raise InputError(f"{place}: is no bundle but {kind}; name what `aot build` gave")


def _check_layers(bundle: Bundle) -> None:
    place = f"bundle {bundle.path}: image manifest"
    listed = (*oci.layers(bundle.index), *bundle.attachments.values())
    expected = {layer.digest: layer for layer in listed}
    found = {layer.digest: layer for layer in bundle.manifest.layers}
    if len(found) < len(bundle.manifest.layers):
        raise BundleError(f"{place}: a layer is listed twice; {_ADVICE}")
    if missing := sorted(expected.keys() - found.keys()):
        raise BundleError(f"{place}: lacks the layer {_short(missing[0])} that the index names; {_ADVICE}")
    if surplus := sorted(found.keys() - expected.keys()):
        raise BundleError(f"{place}: has the layer {_short(surplus[0])} that the index does not name; {_ADVICE}")
    sizes = _sizes(bundle.path)
    for name, layer in expected.items():
        if found[name] != layer:
            raise BundleError(
                f"{place}: layer {_short(name)} is {found[name].media_type!r} of {found[name].size} bytes, "
                f"in the index {layer.media_type!r} of {layer.size}; {_ADVICE}"
            )
        if sizes.get(digest.hex_of(name)) != layer.size:
            with _blob(bundle.path, name, layer.size):  # says what is wrong
                pass


def _check_there(path: Path, names: set[bytes]) -> None:
    with _faults(f"bundle {path}: {BLOBS}"):
        found = os.listdir(os.fsencode(path / BLOBS))
    if missing := names.difference(found):
        with _blob(path, f"sha256:{min(missing).decode()}", None):  # says what is wrong
            pass


def _sizes(path: Path) -> dict[str, int]:
    """The regular files among the blobs, by name: a thousand of them cost less this way than when each is opened."""
    with _faults(f"bundle {path}: {BLOBS}"), os.scandir(path / BLOBS) as files:
        return {file.name: file.stat().st_size for file in files if file.is_file()}


def _check_surplus(path: Path, names: set[str]) -> None:
    allowed = {Path(): {"oci-layout", "index.json", "blobs"}, Path("blobs"): {"sha256"}, BLOBS: names}
    for folder, known in allowed.items():
        with _faults(f"bundle {path}: {folder}"):
            found = os.listdir(path / folder)
        if surplus := sorted(set(found) - known):
            raise BundleError(f"bundle {path}: {str(folder / surplus[0])!r} is no part of it; remove it")


def _limit(place: str, what: str, size: int, limit: int) -> None:
    if size > limit:
        raise BundleError(f"{place}: {what} of {size} bytes, at most {limit} are allowed; {_ADVICE}")


def _read_blob(path: Path, name: str, size: int) -> bytes:
    faults = _faults(f"bundle {path}: blob {_short(name)}")
    with _blob(path, name, size) as descriptor, faults, os.fdopen(descriptor, "rb", closefd=False) as file:
        data = file.read(size)
    _match(path, name, digest.of(data))
    return data


def _match(path: Path, name: str, found: str) -> None:
    if found != name:
        raise BundleError(
            f"bundle {path}: blob {_short(name)} is damaged (its bytes hash to {_short(found)}); {_ADVICE}"
        )


@contextlib.contextmanager
def _blob(path: Path, name: str, size: int | None) -> Iterator[int]:
    """The descriptor of a blob's file, of the given size. Symlinks are followed: the digest decides."""
    place = f"bundle {path}: blob {_short(name)}"
    with _regular(path / BLOBS / digest.hex_of(name), place) as descriptor:
        if size is not None and (found := os.fstat(descriptor).st_size) != size:
            raise BundleError(f"{place} has {found} bytes, its record says {size}; {_ADVICE}")
        yield descriptor


def _read(path: Path, place: str) -> bytes:
    with _regular(path, place) as descriptor, _faults(place):
        if (size := os.fstat(descriptor).st_size) > _JSON_LIMIT:
            raise BundleError(f"{place} has {size} bytes, at most {_JSON_LIMIT} are allowed; {_ADVICE}")
        return os.read(descriptor, _JSON_LIMIT)


@contextlib.contextmanager
def _regular(path: Path, place: str) -> Iterator[int]:
    with _faults(place):
        # Not to hang on a pipe that lies where a file should.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BundleError(f"{place} is no regular file; {_ADVICE}")
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _faults(place: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise AotError(f"{place}: no permission to read it; change its mode or its owner") from error
    except OSError as error:
        reason = "is missing" if error.errno == errno.ENOENT else f"cannot be read ({error.strerror})"
        raise BundleError(f"{place} {reason}; {_ADVICE}") from error


def _short(name: str) -> str:
    return f"{name[:19]}…"
