"""A bundle in the making: blobs go in as they come, and nothing is to be seen before all of it is there."""

import contextlib
import itertools
import mmap
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from aot import digest
from aot.bundle import oci, staging, store
from aot.bundle.index import codec
from aot.bundle.index.records import BlobRecord, Index
from aot.errors import AotError, InputError


class BlobFile:
    """A blob that is written piece by piece; `record` holds once its context is left."""

    record: BlobRecord

    def __init__(self, file: BinaryIO, destination: Path) -> None:
        self._writer = digest.HashingWriter(file)
        self._destination = destination

    @property
    def size(self) -> int:
        """The bytes written so far."""
        return self._writer.size

    def write(self, data: bytes | memoryview) -> None:
        """Appends some bytes."""
        with staging.file_faults(self._destination):
            self._writer.write(data)

    def _finish(self) -> BlobRecord:
        self.record = BlobRecord(self._writer.digest, self._writer.size)
        return self.record


class Nowhere:
    """Takes the place of a writer where blobs shall leave nothing but their records."""

    @contextlib.contextmanager
    def file(self) -> Iterator[BlobFile]:
        """A blob that is hashed and forgotten."""
        with open(os.devnull, "wb") as stream:
            blob = BlobFile(stream, Path(os.devnull))
            yield blob
            blob._finish()


class Writer:
    """Collects the blobs of a bundle and publishes them under an index; equal blobs are stored once."""

    def __init__(self, root: Path, destination: Path, shown: Path) -> None:
        self._root = root
        self._destination = destination
        self._shown = shown  # as the user spelled it
        self._blobs: dict[str, BlobRecord] = {}
        self._count = itertools.count()

    @classmethod
    @contextlib.contextmanager
    def stage(cls, destination: Path) -> Iterator["Writer"]:
        """A writer whose blobs gather beside the destination; leaving it unpublished removes them.

        Raises InputError for a destination that cannot be one, AotError where the system refuses to write.
        """
        absolute = _followed(Path(os.path.abspath(destination)))
        if not absolute.name:
            raise InputError(f"{destination}: is no directory that could be made; name another")
        if os.path.ismount(absolute):
            raise InputError(f"{destination}: is a mount point, which cannot be renamed; name a directory below it")
        with staging.directory(absolute) as root:
            with staging.file_faults(destination):
                (root / "blobs").mkdir(mode=0o755)
                (root / store.BLOBS).mkdir(mode=0o755)
            yield cls(root, absolute, destination)

    @classmethod
    def join(cls, root: Path) -> "Writer":
        """A writer for another process, into the staging directory of this one, which then includes its blobs."""
        return cls(root, root, staging.destination_of(root))

    @property
    def root(self) -> Path:
        """The staging directory."""
        return self._root

    def include(self, blobs: Iterable[BlobRecord]) -> None:
        """Takes blobs that a joined writer stored for its own."""
        self._blobs |= {blob.digest: blob for blob in blobs}

    def read(self, name: str) -> bytes:
        """The bytes of a blob that was stored."""
        return (self._root / store.BLOBS / digest.hex_of(name)).read_bytes()

    def map(self, name: str, size: int) -> memoryview:
        """A blob that was stored, as a read-only memory map."""
        with (self._root / store.BLOBS / digest.hex_of(name)).open("rb") as stream:
            return memoryview(mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ) if size else b"")

    def add(self, data: bytes) -> BlobRecord:
        """Stores some bytes."""
        with self.file() as file:
            file.write(data)
        return file.record

    @contextlib.contextmanager
    def file(self) -> Iterator[BlobFile]:
        """A blob to be written piece by piece, kept if the context is left without an exception."""
        path = self._root / f".{os.getpid()}.{next(self._count)}"
        try:
            with staging.file_faults(self._shown):
                stream = _create(path)
            try:
                blob = BlobFile(stream, self._shown)
                yield blob
                with staging.file_faults(self._shown):
                    stream.close()
                    self._keep(path, blob._finish())
            finally:
                # A full disk refuses the rest of the buffer once more; it was reported the first time.
                with contextlib.suppress(OSError):
                    stream.close()
        finally:
            path.unlink(missing_ok=True)

    def publish(self, index: Index, replace: bool = False, attachments: Mapping[str, bytes] | None = None) -> str:
        """Seals the bundle and shows it."""
        name = self.seal(index, attachments)
        self.show(name, replace)
        return name

    def adopt(self, bundle: store.Bundle) -> None:
        """Takes all that the index of another bundle names; the files are shared where the system can."""
        self.share(bundle, (BlobRecord(layer.digest, layer.size) for layer in oci.layers(bundle.index)))

    def share(self, bundle: store.Bundle, blobs: Iterable[BlobRecord]) -> None:
        """Takes blobs of another bundle, by links where the system can."""
        for blob in blobs:
            name = digest.hex_of(blob.digest)
            with staging.file_faults(self._shown):
                _link(bundle.path / store.BLOBS / name, self._root / store.BLOBS / name)
            self._blobs[blob.digest] = blob

    def seal(self, index: Index, attachments: Mapping[str, bytes] | None = None) -> str:
        """Completes the staged bundle under an index, and gives its digest; it can be opened at `root` from then on.

        Attachments go by their kind. They may be changed by sealing again.
        """
        layers = oci.layers(index)
        data = codec.encode(index)
        where = f"bundle {self._shown}: index"
        codec.decode(data, where)
        config = self.add(data)
        kept = {layer.digest for layer in layers} | {config.digest}
        assert kept <= self._blobs.keys(), "each blob that the index names must have been added"
        about = tuple(self._attachment(kind, data, config) for kind, data in sorted((attachments or {}).items()))
        manifest = oci.write_manifest(oci.Descriptor(config.digest, config.bytes, oci.CONFIG), (*layers, *about))
        kept |= {layer.digest for layer in about} | {self.add(manifest).digest}
        for name in self._blobs.keys() - kept:
            (self._root / store.BLOBS / digest.hex_of(name)).unlink()
        self._blobs = {name: self._blobs[name] for name in kept}
        with staging.file_faults(self._shown):
            self._write("index.json", oci.write_index(manifest))
            self._write("oci-layout", oci.LAYOUT)
        return config.digest

    def show(self, name: str, replace: bool = False) -> None:
        """Shows the sealed bundle of this digest at its destination, all at once; nothing can follow.

        A whole bundle of the same digest that is already there is left as it is. Raises InputError for anything else
        there unless it is to be replaced.
        """
        with staging.file_faults(self._shown):
            self._sync()
            self._show(name, replace)

    def swap(self) -> None:
        """Puts the sealed bundle in the place of the one at the destination, whatever its digest."""
        with staging.file_faults(self._shown):
            self._sync()
            staging.swap(self._root, self._destination)
            staging.sync(self._destination.parent)

    def _attachment(self, kind: str, data: bytes, config: BlobRecord) -> oci.Descriptor:
        blob = self.add(data)
        return oci.Descriptor(blob.digest, blob.bytes, oci.ATTACHMENTS[kind], config.digest)

    def _keep(self, path: Path, record: BlobRecord) -> None:
        os.replace(path, self._root / store.BLOBS / digest.hex_of(record.digest))
        self._blobs[record.digest] = record

    def _write(self, name: str, data: bytes) -> None:
        (self._root / name).unlink(missing_ok=True)
        with _create(self._root / name) as stream:
            stream.write(data)

    def sync_blobs(self) -> None:
        """Has what was stored so far on the disk, so that less is left to be written when the bundle is shown."""
        with staging.file_faults(self._shown):
            for name in list(self._blobs):
                staging.sync(self._root / store.BLOBS / digest.hex_of(name))

    def _sync(self) -> None:
        folder = self._root / store.BLOBS
        self.sync_blobs()
        for path in (self._root / "index.json", self._root / "oci-layout", folder, folder.parent, self._root):
            staging.sync(path)

    def _show(self, name: str, replace: bool) -> None:
        try:
            staging.show_bundle(self._root, self._destination)
        except FileExistsError as error:
            if self._is_there(name):
                return
            if not replace:
                raise occupied(self._shown) from error
            staging.swap(self._root, self._destination)
        staging.sync(self._destination.parent)

    def _is_there(self, name: str) -> bool:
        try:
            return store.open(self._destination).digest == name == store.verify(self._destination).digest
        except AotError:
            return False


def occupied(destination: Path) -> InputError:
    """The error of a destination at which another bundle lies."""
    return InputError(
        f"{destination}: exists already and is not this bundle; replace it with --replace or name another"
    )


def _followed(path: Path) -> Path:
    """What a symlink names, for that is what changes when it is replaced; other paths as they are."""
    return Path(os.path.realpath(path)) if os.path.islink(path) and os.path.exists(path) else path


def _link(source: Path, destination: Path) -> None:
    try:
        os.link(source, destination)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, destination)


def _create(path: Path) -> BinaryIO:
    # No more than this; a strict umask makes it less.
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb")
