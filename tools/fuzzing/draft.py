"""A mutant in the making: a copy of a sound bundle in memory, which a mutation changes, written where it is wanted."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgpack

from aot import digest
from aot.bundle import oci, store
from aot.bundle.store import BLOBS, Bundle
from fuzzing import wire
from fuzzing.wire import Plain

Act = Callable[[Path], object]


def fresh(path: Path, data: bytes) -> None:
    """Writes a file where a link to one of the sound bundle may lie."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


@dataclass(frozen=True)
class Source:
    """A sound bundle, read."""

    bundle: Bundle

    @classmethod
    def of(cls, path: Path) -> "Source":
        """That at a path."""
        return cls(store.open(path))

    @cached_property
    def index(self) -> bytes:
        """The bytes of its index."""
        return self.bundle.read(self.bundle.digest, self.bundle.manifest.config.size)

    @cached_property
    def plain(self) -> bytes:
        """The index as plain values, packed, as that is the fastest way to have many copies."""
        return msgpack.packb(wire.opened(self.index))

    @cached_property
    def attachments(self) -> dict[str, bytes]:
        """Their bytes by kind."""
        kinds = self.bundle.attachments
        return {kind: self.bundle.read(layer.digest, layer.size) for kind, layer in kinds.items()}

    def blob(self, name: str) -> bytes:
        """The bytes of a blob."""
        return (self.bundle.path / BLOBS / digest.hex_of(name)).read_bytes()

    def draft(self) -> "Draft":
        """A copy to be changed."""
        return Draft(self, msgpack.unpackb(self.plain), dict(self.attachments))


@dataclass
class Draft:
    """What a mutation changes. Digests and sizes follow, so that what it changed is the only fault."""

    source: Source
    index: Plain
    attachments: dict[str, bytes]
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Those that the sound bundle lacks, by digest."""
    encode: Callable[[Plain], bytes] = wire.closed
    seal: Callable[[bytes], bytes] = lambda manifest: manifest
    """Changes the image manifest."""
    after: list[Act] = field(default_factory=list)
    """What is done to the directory in the end, digests or not."""
    damaged: bool = False
    """Whether a file is then no longer what its digest says."""
    free: bool = False
    """Whether it may well give other tokens: those of another tokenizer, of another picture."""
    trusted: bool = True
    """Whether what it would run is that which aot compiled."""

    def replace(self, name: str, data: bytes) -> None:
        """Puts other bytes in the place of a blob."""
        new = digest.digest_of(data)
        self.blobs[new] = data
        wire.renamed(self.index, name, new, len(data))

    def write(self, root: Path) -> None:
        """The directory. Files that are as in the sound bundle are links to its."""
        (root / BLOBS).mkdir(parents=True)
        data = self.encode(self.index)
        config = oci.Descriptor(digest.digest_of(data), len(data), oci.CONFIG)
        kinds = {kind: self._about(kind, config.digest) for kind in sorted(self.attachments)}
        attached = [
            oci.Descriptor(digest.digest_of(d), len(d), oci.ATTACHMENTS[k], config.digest) for k, d in kinds.items()
        ]
        layers = list(wire.layers(self.index))
        manifest = self.seal(oci.write_manifest(config, [*layers, *attached]))
        for layer in layers:
            self._put(root, layer.digest)
        for each in (data, manifest, *kinds.values()):
            fresh(root / BLOBS / digest.hex_of(digest.digest_of(each)), each)
        (root / "index.json").write_bytes(oci.write_index(manifest))
        (root / "oci-layout").write_bytes(oci.LAYOUT)
        for act in self.after:
            act(root)

    def _put(self, root: Path, name: str) -> None:
        file = digest.hex_of(name)
        if name in self.blobs:
            fresh(root / BLOBS / file, self.blobs[name])
        elif (self.source.bundle.path / BLOBS / file).exists():
            os.link(self.source.bundle.path / BLOBS / file, root / BLOBS / file)

    def _about(self, kind: str, name: str) -> bytes:
        """An attachment of the changed bundle: where it named the sound one it names this one."""
        old, new = digest.hex_of(self.source.bundle.digest), digest.hex_of(name)
        return self.attachments[kind].replace(old.encode(), new.encode())
