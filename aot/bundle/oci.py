"""The OCI image layout around the index: `oci-layout`, `index.json` and the image manifest, written and read strictly.

Registries and copying tools rewrite `index.json`, so nothing that matters lives there: a bundle is named by the digest
of its index, the config blob of the manifest.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from aot import digest, strict_json
from aot.bundle.index.records import Index, stored_blobs
from aot.errors import BundleError

ARTIFACT = "application/vnd.aot.bundle.v1"
CONFIG = "application/vnd.aot.index.v1+msgpack"
LAYERS = {
    "program": "application/vnd.aot.program.v1",
    "executable": "application/vnd.aot.executable.v1",
    "tuning": "application/vnd.aot.tuning.v1+json",
    "weights": "application/vnd.aot.weights.v1+safetensors",
    "tokenizer": "application/vnd.aot.tokenizer.v1",
}
ATTACHMENTS = {
    "provenance": "application/vnd.aot.provenance.v1+json",
    "golden": "application/vnd.aot.golden.v1+json",
    "loss": "application/vnd.aot.loss.v1+json",
    "signature": "application/vnd.aot.signature.v1+json",
}
"""Layers that speak about the bundle and are outside its digest; at most one of each kind."""
SUBJECT = "org.aot.subject"
"""Annotation of an attachment: the digest of the bundle that it speaks about."""
LAYOUT = digest.canonical_json({"imageLayoutVersion": "1.0.0"})

_IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
_IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_KINDS = {media_type: kind for kind, media_type in ATTACHMENTS.items()}
_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True)
class Descriptor:
    """What OCI calls a blob: digest, size in bytes, media type."""

    digest: str
    size: int
    media_type: str
    subject: str | None = None
    """The digest of the bundle that an attachment speaks about."""


@dataclass(frozen=True)
class Manifest:
    """The image manifest: the index as config, everything that it names as layers, then the attachments."""

    config: Descriptor
    layers: tuple[Descriptor, ...]

    def sizes(self, *kinds: str) -> dict[str, int]:
        """The sizes of the layers of some kinds, by digest."""
        wanted = {LAYERS[kind] for kind in kinds}
        return {layer.digest: layer.size for layer in self.layers if layer.media_type in wanted}

    @cached_property
    def attachments(self) -> dict[str, Descriptor]:
        """The layers that are attachments, by kind."""
        return {_KINDS[layer.media_type]: layer for layer in self.layers if layer.media_type in _KINDS}


def layers(index: Index) -> tuple[Descriptor, ...]:
    """The blobs that an index names, each once, in its order."""
    distinct: dict[str, Descriptor] = {}
    for _, role, name, size in stored_blobs(index):
        distinct.setdefault(name, Descriptor(name, size, LAYERS[role]))
    return tuple(distinct.values())


def write_manifest(config: Descriptor, layers: Iterable[Descriptor]) -> bytes:
    """The image manifest as canonical JSON."""
    return digest.canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": _IMAGE_MANIFEST,
            "artifactType": ARTIFACT,
            "config": _fields(config),
            "layers": [_fields(layer) for layer in layers],
        }
    )


def write_index(manifest: bytes) -> bytes:
    """The `index.json` of a layout that holds one image manifest, given its bytes."""
    descriptor = Descriptor(digest.digest_of(manifest), len(manifest), _IMAGE_MANIFEST)
    return digest.canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": _IMAGE_INDEX,
            "manifests": [_fields(descriptor) | {"artifactType": ARTIFACT}],
        }
    )


def read_layout(data: bytes, where: str) -> None:
    """Checks the bytes of `oci-layout`. Raises BundleError."""
    try:
        layout = strict_json.expect(strict_json.parse_strictly(data), "it", {"imageLayoutVersion": str})
        _same("imageLayoutVersion", layout["imageLayoutVersion"], "1.0.0")
    except ValueError as error:
        raise _fault(where, error) from error


def read_index(data: bytes, where: str) -> Descriptor:
    """The one manifest that the bytes of `index.json` name. Raises BundleError."""
    try:
        index = strict_json.expect(
            strict_json.parse_strictly(data), "it", {"schemaVersion": int, "manifests": list}, {"mediaType": str}
        )
        _same("schemaVersion", index["schemaVersion"], 2)
        _same("mediaType", index.get("mediaType", _IMAGE_INDEX), _IMAGE_INDEX)
        if len(index["manifests"]) != 1:
            raise ValueError(f"manifests must hold one descriptor, got {len(index['manifests'])}")
        return _manifest_descriptor(index["manifests"][0])
    except ValueError as error:
        raise _fault(where, error) from error


def read_manifest(data: bytes, where: str) -> Manifest:
    """The image manifest in some bytes. Raises BundleError."""
    required = {"schemaVersion": int, "mediaType": str, "artifactType": str, "config": dict, "layers": list}
    try:
        manifest = strict_json.expect(strict_json.parse_strictly(data), "it", required)
        _same("schemaVersion", manifest["schemaVersion"], 2)
        _same("mediaType", manifest["mediaType"], _IMAGE_MANIFEST)
        _same("artifactType", manifest["artifactType"], ARTIFACT)
        config = _descriptor(manifest["config"], "config")
        _same("config.mediaType", config.media_type, CONFIG)
        return Manifest(config, tuple(_layer(row, i, config) for i, row in enumerate(manifest["layers"])))
    except ValueError as error:
        raise _fault(where, error) from error


def _manifest_descriptor(value: Any) -> Descriptor:
    where = "manifests[0]"
    # After a registry the descriptor has lost its artifactType, and may have been given a name.
    descriptor = _descriptor(value, where, {"artifactType": str, "annotations": dict})
    _same(f"{where}.mediaType", descriptor.media_type, _IMAGE_MANIFEST)
    _same(f"{where}.artifactType", value.get("artifactType", ARTIFACT), ARTIFACT)
    strict_json.expect(value.get("annotations", {}), f"{where}.annotations", {}, {_REF_NAME: str})
    return descriptor


def _layer(value: Any, position: int, config: Descriptor) -> Descriptor:
    where = f"layers[{position}]"
    descriptor = _descriptor(value, where, {"annotations": dict})
    if descriptor.media_type not in _KINDS:
        strict_json.expect(value, where, {"mediaType": str, "digest": str, "size": int})
        return descriptor
    subject = strict_json.expect(value.get("annotations", {}), f"{where}.annotations", {SUBJECT: str})[SUBJECT]
    _same(f"{where}.annotations.{SUBJECT}", subject, config.digest)
    return replace(descriptor, subject=subject)


def _descriptor(value: Any, where: str, optional: dict[str, type] | None = None) -> Descriptor:
    fields = strict_json.expect(value, where, {"mediaType": str, "digest": str, "size": int}, optional)
    if not digest.is_digest(fields["digest"]):
        raise ValueError(f"{where}.digest must be 'sha256:' and 64 lower-case hex digits, got {fields['digest']!r}")
    if fields["size"] < 0:
        raise ValueError(f"{where}.size must be at least 0, got {fields['size']}")
    return Descriptor(fields["digest"], fields["size"], fields["mediaType"])


def _fields(descriptor: Descriptor) -> dict[str, Any]:
    fields = {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
    return fields | ({} if descriptor.subject is None else {"annotations": {SUBJECT: descriptor.subject}})


def _same(name: str, found: object, allowed: object) -> None:
    if found != allowed:
        raise ValueError(f"{name} must be {allowed!r}, got {found!r}")


def _fault(where: str, error: ValueError) -> BundleError:
    return BundleError(f"{where}: {error}; fetch it again or rebuild")
