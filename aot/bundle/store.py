"""A bundle directory, opened for reading: its index, its blobs, and whether every byte is as it was built."""

import contextlib
import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from aot import digest
from aot.bundle import held, oci, weights
from aot.bundle.held import Held
from aot.bundle.index import codec
from aot.bundle.index.records import Index
from aot.errors import AotError, BundleError, InputError

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""
Admit = Callable[[Path, oci.Manifest, bytes | None], None]
"""Called with a bundle's path, its image manifest and the signature, None where it has none, before its index is
parsed. Raises BundleError for one that is not to be trusted."""

Identity = tuple[int, ...]
"""Which file it is, and in which state: device, inode, size and times."""

BLOBS = Path("blobs", "sha256")
NAMES = frozenset({"oci-layout", "index.json", "blobs"})
"""What a bundle directory holds."""
_ADVICE = "fetch it again or rebuild"
_JSON_LIMIT = 1 << 20
_MANIFEST_LIMIT = 1 << 24
_INDEX_LIMIT = 1 << 28
_SIGNATURE_LIMIT = 1 << 26


@dataclass(frozen=True, repr=False)
class Bundle:
    """An opened bundle. Its digest, which is its index's, is checked; a blob is when it is read."""

    path: Path
    index: Index
    digest: str
    manifest: oci.Manifest
    manifest_digest: str
    hashed: Mapping[str, Identity] = field(default_factory=dict, compare=False)
    """The files that `verify` hashed, by digest, as they were when it began with them."""
    held: Mapping[str, Held] = field(default_factory=dict, compare=False)
    """Files of blobs, by digest, that are read whatever becomes of the bundle's path."""

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}, {self.digest})"

    @property
    def attachments(self) -> Mapping[str, oci.Descriptor]:
        """What speaks about the bundle, by kind: provenance, golden, loss, signature."""
        return self.manifest.attachments

    @property
    def blobs(self) -> frozenset[str]:
        """The digests of all its blobs, the index and the image manifest among them."""
        return frozenset({self.digest, self.manifest_digest, *(layer.digest for layer in self.manifest.layers)})

    def holding(self, files: Iterable[tuple[str, int]], most: int) -> "Bundle":
        """The bundle with more files held, by digest and size: at most so many of them open, the rest in memory."""
        made = dict(self.held)
        for number, (name, size) in enumerate(files):
            with _blob(self.path, name, size) as descriptor, _faults(f"bundle {self.path}: blob {_short(name)}"):
                made[name] = Held(descriptor, size, is_open=number < most)
        return replace(self, held=made)

    def read(self, name: str, size: int) -> bytes:
        """The bytes of a blob, checked against its digest."""
        return _read_blob(self.path, name, size, self.held.get(name))

    def attachment(self, kind: str) -> bytes | None:
        """The bytes of an attachment, checked against its digest; None where the bundle has none of this kind."""
        found = self.attachments.get(kind)
        return None if found is None else self.read(found.digest, found.size)

    def map(self, name: str, size: int) -> memoryview:
        """A blob as a read-only memory map, of the right size and otherwise unchecked. Its `obj` is the `mmap`."""
        with _blob(self.path, name, size) as descriptor, _faults(f"bundle {self.path}: blob {_short(name)}"):
            return _mapped(descriptor, size)

    def check(self, name: str, mapped: memoryview | None = None) -> None:
        """Hashes a blob, or what was mapped as one. Raises BundleError unless its bytes have its digest."""
        if mapped is None:
            _hashed(self.path, name)
        else:
            _match(self.path, name, digest.digest_of(mapped))


class _Map(mmap.mmap):
    """A file in memory, and which one that is, whatever lies at its path by now."""

    identity: Identity


def mapped_file(view: memoryview) -> Identity:
    """Which file `Bundle.map` mapped, as it was then."""
    return view.obj.identity if isinstance(view.obj, _Map) else ()


def identity(status: os.stat_result) -> Identity:
    """Which file has this status, and in which state. Whatever touches a file makes another of it."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def open(path: Path, admit: Admit | None = None) -> Bundle:
    """Opens a bundle to serve from it: reads its index, and sees that each blob has a file.

    Blobs are checked when they are read. Raises InputError where there is no bundle, BundleError for a broken one or
    one that is not admitted, MachineError for a newer format. One that has to be admitted holds no file beside its
    blobs: nobody has signed that.
    """
    place = f"bundle {path}"
    _find(path)
    oci.read_layout(_read(path / "oci-layout", f"{place}: oci-layout"), f"{place}: oci-layout")
    entry = oci.read_index(_read(path / "index.json", f"{place}: index.json"), f"{place}: index.json")
    _limit(place, "image manifest", entry.size, _MANIFEST_LIMIT)
    manifest = oci.read_manifest(_read_blob(path, entry.digest, entry.size), f"{place}: image manifest")
    if admit:
        admit(path, manifest, _signature(path, manifest))
        _check_surplus(path, _names(entry.digest, manifest))
    config = manifest.config
    _limit(place, "index", config.size, _INDEX_LIMIT)
    index = codec.decode(_read_blob(path, config.digest, config.size), f"{place}: index")
    _check_there(path, _names(entry.digest, manifest))
    return Bundle(path, index, config.digest, manifest, entry.digest)


def inspect(path: Path, admit: Admit | None = None) -> Bundle:
    """Opens a bundle and checks that each blob is there in its size, and no other, but not what is in them.

    Raises as `open`.
    """
    bundle = open(path, admit)
    _check_layers(bundle)
    return bundle


def sound(path: Path, admit: Admit | None = None) -> Bundle:
    """Opens a bundle as `inspect`, and checks every byte in it but those of weights, which are many. Raises so, too."""
    bundle = inspect(path, admit)
    weights = {blob.digest for blob in bundle.index.weights.blobs}
    for layer in bundle.manifest.layers:
        if layer.digest not in weights:
            bundle.check(layer.digest)
    return bundle


def verify(path: Path, progress: Progress | None = None, admit: Admit | None = None) -> Bundle:
    """Opens a bundle, and checks that every byte in it is as it was built.

    Raises as `open`, and BundleError for the first blob that is damaged, for weights that are not as the index says
    and for files that do not belong to the bundle.
    """
    bundle = inspect(path, admit)
    _check_surplus(path, _names(bundle.manifest_digest, bundle.manifest))
    layers, hashed = bundle.manifest.layers, dict[str, Identity]()
    done, total = 0, sum(layer.size for layer in layers)
    for layer in layers:
        hashed[layer.digest] = _hashed(path, layer.digest)
        done += layer.size
        if progress:
            progress(done, total)
    for position, blob in enumerate(bundle.index.weights.blobs):
        where = f"bundle {path}: blob {_short(blob.digest)}"
        weights.agree(
            weights.tensor_table(bundle.map(blob.digest, blob.bytes), where), bundle.index.weights, position, where
        )
    return replace(bundle, hashed=hashed)


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


def _check_there(path: Path, names: set[str]) -> None:
    with _faults(f"bundle {path}: {BLOBS}"):
        found = os.listdir(path / BLOBS)
    if missing := names.difference(found):
        with _blob(path, f"sha256:{min(missing)}", None):  # says what is wrong
            pass


def _sizes(path: Path) -> dict[str, int]:
    """The regular files among the blobs, by name: a thousand of them cost less this way than when each is opened."""
    with _faults(f"bundle {path}: {BLOBS}"), os.scandir(path / BLOBS) as files:
        return {file.name: file.stat().st_size for file in files if file.is_file()}


def _names(manifest_digest: str, manifest: oci.Manifest) -> set[str]:
    """The names of the files of all blobs."""
    layers = (layer.digest for layer in manifest.layers)
    return set(map(digest.hex_of, (manifest_digest, manifest.config.digest, *layers)))


def _check_surplus(path: Path, names: set[str]) -> None:
    allowed = {Path(): NAMES, Path("blobs"): {"sha256"}, BLOBS: names}
    for folder, known in allowed.items():
        with _faults(f"bundle {path}: {folder}"):
            found = os.listdir(path / folder)
        if surplus := sorted(set(found) - known):
            raise BundleError(f"bundle {path}: {str(folder / surplus[0])!r} is no part of it; remove it")


def _limit(place: str, what: str, size: int, limit: int) -> None:
    if size > limit:
        raise BundleError(f"{place}: {what} of {size} bytes, at most {limit} are allowed; {_ADVICE}")


def _read_blob(path: Path, name: str, size: int, file: Held | None = None) -> bytes:
    faults = _faults(f"bundle {path}: blob {_short(name)}")
    if file is not None:
        with faults:
            data = b"".join(file.pieces())
    else:
        with _blob(path, name, size) as descriptor, faults:
            data = b"".join(held.pieces(descriptor, size))
    _match(path, name, digest.digest_of(data))
    return data


def _mapped(descriptor: int, size: int) -> memoryview:
    if not size:
        return memoryview(b"")
    made = _Map(descriptor, size, access=mmap.ACCESS_READ)
    made.identity = identity(os.fstat(descriptor))
    return memoryview(made)


def _hashed(path: Path, name: str) -> Identity:
    """Which file a blob's was, and as it was, when it was found to have its digest."""
    faults = _faults(f"bundle {path}: blob {_short(name)}")
    with _blob(path, name, None) as descriptor, faults, os.fdopen(descriptor, "rb", closefd=False) as file:
        before = identity(os.fstat(descriptor))
        _match(path, name, digest.of_stream(file))
    return before


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
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise AotError(f"{place}: cannot be opened ({error.strerror}); raise `ulimit -n`, or close some") from error
        reason = "is missing" if error.errno == errno.ENOENT else f"cannot be read ({error.strerror})"
        raise BundleError(f"{place} {reason}; {_ADVICE}") from error


def _short(name: str) -> str:
    return f"{name[:19]}…"
