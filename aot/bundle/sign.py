"""Signatures over the digests of a bundle's blobs, made and checked with OpenSSF model-signing.

What is signed is the directory `blobs/sha256` without the image manifest and the signature itself, and so nothing that
a registry or a copying tool rewrites. A file there is named by its digest and is not hashed to sign or to check a
signature: that its bytes have this digest is seen when it is read.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot import digest, extras, strict_json
from aot.bundle import attachments, oci, store
from aot.errors import AotError, BundleError, InputError

if TYPE_CHECKING:
    from model_signing import manifest, verifying

_KEY = "publicKey"
_CERTIFICATE = "x509CertificateChain"
_MADE_WITH = {_KEY: "a key", _CERTIFICATE: "a certificate"}


class _Listed:
    """Stands in for model-signing's hashing of a directory whose files are named by their SHA-256."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = frozenset(names)

    def add_ignored_paths(self, **_: object) -> None:
        """Nothing is walked, so nothing can be ignored."""

    def hash(self, _: Path, *, files_to_hash: Iterable[Path] | None = None) -> "manifest.Manifest":
        """The files given and their digests, or those known; model-signing sees whether it signed the same."""
        if files_to_hash is not None:
            self.names = frozenset(path.name for path in files_to_hash)
        return listing(self.names)


def listing(names: Iterable[str]) -> "manifest.Manifest":
    """What model-signing makes of a directory `sha256` with files that are named by their SHA-256."""
    from model_signing import manifest
    from model_signing._hashing import hashing

    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    items = [
        manifest.FileManifestItem(path=Path(name), digest=hashing.Digest("sha256", bytes.fromhex(name)))
        for name in names
    ]
    return manifest.Manifest(store.BLOBS.name, items, manifest.SerializationType.from_args(serialization))


def sign(
    path: Path,
    private_key: Path,
    *,
    password: bytes | None = None,
    certificate: Path | None = None,
    chain: Sequence[Path] = (),
) -> str:
    """Signs a bundle in place, anew where it is signed already, and gives the digest of the signature.

    With a certificate it is that of the key, and the chain leads from it to a root. Raises InputError for keys and
    certificates that cannot be used, and as `store.open`.
    """
    signer = _signer(private_key, password, certificate, chain)
    bundle = store.open(path)
    about = [layer for kind, layer in bundle.attachments.items() if kind != "signature"]
    names = {bundle.digest, *(layer.digest for layer in (*oci.layers(bundle.index), *about))}
    signer.set_hashing_config(_Listed(digest.hex_of(name) for name in names))
    with _memory() as file:
        signer.sign(store.BLOBS, file)
        signature = file.read_bytes()
    attachments.attach(path, "signature", signature)
    return digest.digest_of(signature)


def by_public_key(public_key: Path) -> store.Admit:
    """Admits bundles that are signed with the private key of a public one. Raises InputError for one of no use."""
    with _library():
        from model_signing import verifying
    with _usable("key", public_key):
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    return _admit(config, _KEY)


def by_certificate(chain: Sequence[Path]) -> store.Admit:
    """Admits bundles signed with a certificate that leads to one of these. Raises InputError for those of no use."""
    assert chain, "without any, model-signing takes the roots of the web"
    with _library():
        from model_signing import verifying
    with _usable("certificate", *chain):
        config = verifying.Config().use_certificate_verifier(certificate_chain=chain)
    return _admit(config, _CERTIFICATE)


def _admit(config: "verifying.Config", material: str) -> store.Admit:
    def admit(path: Path, manifest: oci.Manifest, signature: bytes | None) -> None:
        if signature is None:
            raise BundleError(f"bundle {path}: is not signed; fetch one that is, or sign it")
        place = f"bundle {path}: signature"
        signed = _signed(config, material, signature, place)
        layers = [layer for layer in manifest.layers if layer != manifest.attachments["signature"]]
        held = {digest.hex_of(layer.digest) for layer in (manifest.config, *layers)}
        for names, fault in ((held - signed, "does not cover"), (signed - held, "covers, but the bundle lacks,")):
            if names:
                raise BundleError(f"{place} {fault} blob sha256:{min(names)[:12]}…; sign it again or fetch it again")

    return admit


def _signed(config: "verifying.Config", material: str, signature: bytes, place: str) -> frozenset[str]:
    """The names of the blobs that a signature covers, once it has been found to hold."""
    listed = _Listed()
    try:
        _check_material(strict_json.parse_strictly(signature), material)
        with _memory(signature) as file:
            config.set_hashing_config(listed).set_ignore_unsigned_files(True).verify(store.BLOBS, file)
    except Exception as error:  # what it raises for bytes that anyone may have written is not laid down anywhere
        raise BundleError(f"{place} does not hold ({_reason(error)}); fetch one signed with this key") from error
    return listed.names


def _check_material(document: Any, material: str) -> None:
    found = next((name for name in _MADE_WITH if document["verificationMaterial"].get(name)), None)
    if found != material:
        made = "nothing known" if found is None else _MADE_WITH[found]
        raise ValueError(f"it was made with {made}, not with {_MADE_WITH[material]}")
    if material == _KEY and not document["verificationMaterial"][_KEY].get("hint"):
        raise ValueError("it does not say with which key it was made")  # model-signing would print that on stdout


def _signer(private_key: Path, password: bytes | None, certificate: Path | None, chain: Sequence[Path]) -> Any:
    with _library():
        from model_signing import signing
    if certificate is None:
        with _usable("key", private_key):
            # It takes bytes, whatever its annotation says.
            return signing.Config().use_elliptic_key_signer(private_key=private_key, password=password)
    if password is not None:
        raise InputError(f"key {private_key}: model-signing takes no password beside a certificate; decrypt it first")
    with _usable("key or certificate", private_key, certificate, *chain):
        return signing.Config().use_certificate_signer(
            private_key=private_key,
            signing_certificate=certificate,
            certificate_chain=chain or [certificate],  # it refuses an empty one
        )


@contextlib.contextmanager
def _library() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise AotError(f"signatures: {extras.explain_import(error)}") from error


@contextlib.contextmanager
def _usable(what: str, *paths: Path) -> Iterator[None]:
    """Names the files that model-signing could not read or use."""
    place = f"{what} {', '.join(map(str, paths))}"
    try:
        yield
    except OSError as error:
        raise InputError(f"{what} {error.filename or place}: {error.strerror}; name a PEM file") from error
    except AttributeError as error:  # it asks other keys for their curve
        raise InputError(f"{place}: is on no elliptic curve; give one on P-256, P-384 or P-521") from error
    except Exception as error:  # of several libraries
        raise InputError(f"{place}: cannot be used ({_reason(error)}); give PEM on P-256, P-384 or P-521") from error


@contextlib.contextmanager
def _memory(data: bytes = b"") -> Iterator[Path]:
    """A file for model-signing to read or write that is on no disk: where bundles are served there may be none."""
    descriptor = os.memfd_create("signature", os.MFD_CLOEXEC)
    try:
        path = Path(f"/proc/self/fd/{descriptor}")
        path.write_bytes(data)
        yield path
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) in range(1, 200) else type(error).__name__
