"""Keys, certificates, a registry, and the command of the model-signing project itself, for tests of signatures."""

import contextlib
import datetime
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import synthetic
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aot import digest
from aot.bundle import oci, statement, store

GOLDEN = b'{"entries": []}'
LOSS = b'{"nats": 0.1}'


def provenance(root: Path, **changes: Any) -> bytes:
    """A statement about a bundle, with some of its fields changed."""
    bundle = store.open(root)
    about = statement.subjects(bundle.digest, (combo.key for combo in bundle.index.combos))
    definition = {"buildType": "x", "externalParameters": {}, "internalParameters": {}, "resolvedDependencies": []}
    predicate = {"buildDefinition": {**definition, **changes.pop("definition", {})}, "runDetails": {}}
    said = {"_type": statement.TYPE, "predicateType": statement.PREDICATE, "subject": about, "predicate": predicate}
    return digest.canonical_json({**said, **changes})


@dataclass(frozen=True)
class Pair:
    """A private and a public key, in files."""

    private: Path
    public: Path


def pem(path: Path, key: Any, password: bytes | None = None) -> Path:
    """A private key in a file."""
    secret = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, secret))
    return path


def pair(folder: Path, name: str, curve: Any = None, password: bytes | None = None) -> Pair:
    """A new pair of keys."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = folder / f"{name}.pub"
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return Pair(pem(folder / f"{name}.pem", key, password), public)


@dataclass(frozen=True)
class Authority:
    """A certificate, of one's own or of another authority, with its key."""

    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    file: Path
    private: Path


def certify(folder: Path, name: str, by: Authority | None = None, authority: bool = True) -> Authority:
    """A certificate by an authority, or a root of its own; either another authority or one to sign with."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign", "encipher_only",
         "decipher_only"), False
    )  # fmt: skip
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, **usage),
            critical=True,
        )
        .sign(by.key if by else key, hashes.SHA256())
    )
    file = folder / f"{name}.crt"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return Authority(name, key, made, file, pem(folder / f"{name}.pem", key))


def manifest(root: Path) -> oci.Manifest:
    """The image manifest of a bundle."""
    return oci.read_manifest(synthetic.manifest_of(root).read_bytes(), "manifest")


def signature_of(root: Path) -> Path:
    """The file of its signature."""
    return synthetic.blob_file(root, manifest(root).attachments["signature"].digest)


def put(root: Path, kind: str, data: bytes | None) -> None:
    """Gives a bundle another attachment of a kind, or none, with its digests in order."""
    old = manifest(root)
    if kind in old.attachments:
        synthetic.blob_file(root, old.attachments[kind].digest).unlink()
    layers = [layer for layer in old.layers if layer != old.attachments.get(kind)]
    if data is not None:
        synthetic.blob_file(root, digest.digest_of(data)).write_bytes(data)
        layers.append(oci.Descriptor(digest.digest_of(data), len(data), oci.ATTACHMENTS[kind], old.config.digest))
    synthetic.reseal(root, oci.write_manifest(old.config, layers))


def model_signing(root: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """Checks a bundle with that project's own command: `key --public_key …` or `certificate --certificate_chain …`."""
    method, *rest = map(str, options)
    blobs = root / "blobs" / "sha256"
    command = [
        Path(sys.executable).parent / "model_signing",
        "verify",
        method,
        blobs,
        "--signature",
        signature_of(root),
    ]
    return subprocess.run(
        [*command, "--ignore_unsigned_files", *rest], capture_output=True, text=True, timeout=120, check=False
    )


def skopeo(source: str, destination: str) -> None:
    plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", *plain, source, destination],
        check=True,
        capture_output=True,
        timeout=120,
    )


HAS_SKOPEO = shutil.which("skopeo") is not None
HAS_REGISTRY = HAS_SKOPEO and shutil.which("docker-registry") is not None


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[str]:
    """A registry on this machine, in plain http: its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    folder.mkdir()
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: '{address}'}}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log)
    try:
        _wait(address, process, folder / "log")
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}/v2/", timeout=5):
            return
        time.sleep(0.1)
    raise AssertionError(log.read_text())
