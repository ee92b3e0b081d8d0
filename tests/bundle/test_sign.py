"""Signatures: who holds the key decides, nothing is parsed before, and no bit of a bundle can change unseen."""

import base64
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import signing
import synthetic
from commands import aot as command
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

import aot
from aot import digest
from aot.bundle import attachments, sign, store
from aot.bundle.index import codec
from aot.cli import main
from aot.errors import BundleError, InputError


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> signing.Pair:
    return signing.pair(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> signing.Pair:
    return signing.pair(tmp_path_factory.mktemp("keys"), "others")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, keys: signing.Pair) -> Path:
    """A signed bundle with every kind of blob and attachment."""
    root = tmp_path_factory.mktemp("pristine") / "b"
    synthetic.write(root)
    attachments.attach(root, "provenance", signing.provenance(root))
    attachments.attach(root, "golden", signing.GOLDEN)
    attachments.attach(root, "loss", signing.LOSS)
    sign.sign(root, keys.private)
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "b"))


def fault(root: Path, admit: store.Admit) -> str:
    """What the refusal of a bundle says, which is a line and the same when all of it is hashed."""
    said = []
    for look in (lambda: store.open(root, admit), lambda: store.verify(root, admit=admit)):
        with pytest.raises(BundleError) as caught:
            look()
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert said[0].startswith(f"bundle {root}: ")
    assert "\n" not in said[0]
    return said[0]


def test_what_is_signed_is_what_model_signing_makes_of_the_files_by_hashing_them(root: Path):
    from model_signing import hashing
    from model_signing._signing.signing import Payload

    signing.signature_of(root).unlink()
    synthetic.manifest_of(root).unlink()
    blobs = root / "blobs" / "sha256"
    theirs = hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False).hash(blobs)
    ours = sign.listing(path.name for path in blobs.iterdir())

    assert len(list(blobs.iterdir())) == 8  # index, program, executable, weights, tokenizer, provenance, golden, loss
    assert ours == theirs
    assert Payload(ours).statement.pb == Payload(theirs).statement.pb


def test_a_signature_leaves_the_digest_and_every_other_blob_as_they_were(tmp_path: Path, keys: signing.Pair):
    name = synthetic.write(tmp_path / "b")
    attachments.attach(tmp_path / "b", "provenance", signing.provenance(tmp_path / "b"))
    before = signing.manifest(tmp_path / "b")

    signature = sign.sign(tmp_path / "b", keys.private)
    after = signing.manifest(tmp_path / "b")

    assert store.open(tmp_path / "b").digest == name
    assert len(store.verify(tmp_path / "b", admit=sign.by_public_key(keys.public)).blobs) == 8
    assert set(after.layers) - set(before.layers) == {after.attachments["signature"]}
    assert after.attachments["signature"].digest == signature
    assert set(before.layers) < set(after.layers)


def test_a_bundle_is_signed_in_place_through_a_link_to_it(root: Path, tmp_path: Path, others: signing.Pair):
    (tmp_path / "current").symlink_to("b")

    sign.sign(tmp_path / "current", others.private)

    assert (tmp_path / "current").is_symlink()
    assert len(store.verify(root, admit=sign.by_public_key(others.public)).blobs) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "current"]


def test_signing_again_replaces_the_signature(root: Path, keys: signing.Pair, others: signing.Pair):
    sign.sign(root, others.private)

    assert len(store.verify(root, admit=sign.by_public_key(others.public)).blobs) == 10
    assert "does not hold (Key mismatch" in fault(root, sign.by_public_key(keys.public))


@pytest.mark.parametrize(
    "place", ["secrets.py", "blobs/secrets.py", "blobs/sha256/secrets.py", "blobs/sha256/" + "0" * 64]
)
def test_a_file_that_nobody_signed_is_refused_where_a_signature_is_demanded(root: Path, keys: signing.Pair, place: str):
    (root / place).write_text("")

    assert f"{place!r} is no part of it; remove it" in fault(root, sign.by_public_key(keys.public))
    store.open(root)


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_model_signings_own_command_accepts_our_signature_and_no_other_key(
    root: Path, others: signing.Pair, tmp_path_factory: pytest.TempPathFactory, curve: Callable[[], object]
):
    pair = signing.pair(tmp_path_factory.mktemp("keys"), "curve", curve())
    sign.sign(root, pair.private)

    ours = signing.model_signing(root, "key", "--public_key", pair.public)
    theirs = signing.model_signing(root, "key", "--public_key", others.public)

    assert (ours.returncode, ours.stdout) == (0, "Verification succeeded\n"), ours.stderr
    assert theirs.returncode == 1
    assert len(store.verify(root, admit=sign.by_public_key(pair.public)).blobs) == 10


@pytest.mark.skipif(not signing.HAS_SKOPEO, reason="needs skopeo")
def test_a_signature_holds_after_skopeo_copied_the_bundle(
    root: Path, tmp_path: Path, keys: signing.Pair, others: signing.Pair
):
    signing.skopeo(f"oci:{root}", f"oci:{tmp_path}/copy:v1")

    check_copy(tmp_path / "copy", root, keys, others)


@pytest.mark.skipif(not signing.HAS_REGISTRY, reason="needs skopeo and docker-registry")
def test_a_signature_holds_after_a_registry_had_the_bundle(
    root: Path, tmp_path: Path, keys: signing.Pair, others: signing.Pair
):
    with signing.registry(tmp_path / "registry") as address:
        signing.skopeo(f"oci:{root}", f"docker://{address}/team/model:v1")
        signing.skopeo(f"docker://{address}/team/model:v1", f"oci:{tmp_path}/copy:v1")

    check_copy(tmp_path / "copy", root, keys, others)


def check_copy(copy: Path, root: Path, keys: signing.Pair, others: signing.Pair) -> None:
    assert (copy / "index.json").read_bytes() != (root / "index.json").read_bytes()  # it went through another's hands
    assert len(store.verify(copy, admit=sign.by_public_key(keys.public)).blobs) == 10
    assert store.open(copy).digest == store.open(root).digest
    done = signing.model_signing(copy, "key", "--public_key", keys.public)
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stderr
    assert signing.model_signing(copy, "key", "--public_key", others.public).returncode == 1
    assert "does not hold (Key mismatch" in fault(copy, sign.by_public_key(others.public))


def unsigned(root: Path) -> None:
    signing.put(root, "signature", None)


def signed_by_another(root: Path) -> None:
    other = signing.pair(root.parent, "another")
    sign.sign(root, other.private)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (unsigned, "is not signed"),
        (signed_by_another, "signature does not hold (Key mismatch"),
        (lambda root: signing.put(root, "signature", b"{}"), "signature does not hold"),
        (lambda root: signing.put(root, "provenance", b"other"), "signature does not cover blob sha256:"),
        (lambda root: signing.put(root, "golden", None), "signature covers, but the bundle lacks, blob sha256:"),
    ],
    ids=["unsigned", "another's", "empty", "other provenance", "no golden"],
)
def test_a_bundle_that_is_not_signed_as_it_is_is_refused_before_its_index_is_parsed(
    root: Path, keys: signing.Pair, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], said: str
):
    change(root)
    monkeypatch.setattr(codec, "decode", lambda *_: pytest.fail("the index was parsed"))

    assert said in fault(root, sign.by_public_key(keys.public))
    with pytest.raises(BundleError, match=f"bundle {root}: .*signed|signature"):
        aot.load(root, key=keys.public)


def test_another_index_under_the_same_signature_is_refused_before_it_is_parsed(
    root: Path, keys: signing.Pair, monkeypatch: pytest.MonkeyPatch
):
    old = signing.manifest(root)
    about = {kind: synthetic.blob_file(root, layer.digest).read_bytes() for kind, layer in old.attachments.items()}
    for kind in about:  # they name the bundle as their subject
        signing.put(root, kind, None)
    changed = synthetic.blob_file(root, old.config.digest).read_bytes().replace(b"2026-12-31", b"2036-12-31")
    synthetic.rewire(root, changed)
    for kind, data in about.items():
        signing.put(root, kind, data)
    assert len(store.verify(root).blobs) == 10  # which is whole, but not what was signed
    monkeypatch.setattr(codec, "decode", lambda *_: pytest.fail("the index was parsed"))

    assert f"signature does not cover blob {digest.digest_of(changed)[:19]}" in fault(
        root, sign.by_public_key(keys.public)
    )


def test_a_signature_of_another_bundle_is_refused(root: Path, tmp_path: Path, keys: signing.Pair):
    synthetic.write(tmp_path / "other")
    sign.sign(tmp_path / "other", keys.private)
    signing.put(root, "signature", signing.signature_of(tmp_path / "other").read_bytes())

    assert "signature does not cover blob sha256:" in fault(root, sign.by_public_key(keys.public))


def test_a_list_that_was_changed_under_its_signature_is_refused(root: Path, keys: signing.Pair):
    document = json.loads(signing.signature_of(root).read_bytes())
    payload = base64.b64decode(document["dsseEnvelope"]["payload"])
    document["dsseEnvelope"]["payload"] = base64.b64encode(payload + b" ").decode()
    signing.put(root, "signature", json.dumps(document).encode())

    assert "signature does not hold (InvalidSignature)" in fault(root, sign.by_public_key(keys.public))


def test_neither_signing_nor_checking_a_signature_reads_a_weight(root: Path, keys: signing.Pair):
    blob = store.open(root).index.weights.blobs[0]
    synthetic.blob_file(root, blob.digest).write_bytes(bytes(blob.bytes))

    sign.sign(root, keys.private)
    store.open(root, sign.by_public_key(keys.public))

    with pytest.raises(BundleError, match=f"blob {blob.digest[:19]}… is damaged"):
        store.verify(root, admit=sign.by_public_key(keys.public))


def refusal(root: Path, key: Path, capfd: pytest.CaptureFixture[str], changed: Path, kind: str) -> str:
    """What the command says of a bundle with a bit flipped; holds it to code 5 and one line that names the place."""
    code = main.run(["verify", str(root), "--key", str(key)])
    out, err = capfd.readouterr()
    assert (code, out, err.count("\n")) == (5, "", 1), (changed, kind, out, err)
    assert err.startswith(f"bundle {root}: "), err
    if changed.parent.name == "sha256":
        assert f"blob sha256:{changed.name[:12]}… is damaged" in err
    else:
        assert changed.name in err or "blob sha256:" in err  # a bit of a digest or a size in index.json
    return err


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def kinds(root: Path) -> dict[Path, str]:
    """What each file of a bundle is."""
    found = signing.manifest(root)
    layers = {layer.media_type.split(".")[2]: [] for layer in found.layers}
    for layer in found.layers:
        layers[layer.media_type.split(".")[2]].append(synthetic.blob_file(root, layer.digest))
    named = {file: kind for kind, files in layers.items() for file in files}
    named |= {synthetic.blob_file(root, found.config.digest): "index", synthetic.manifest_of(root): "image manifest"}
    return named | {root / name: name for name in ("index.json", "oci-layout")}


KINDS = {"program", "executable", "weights", "tokenizer", "provenance", "golden", "loss", "signature"}
KINDS |= {"index", "image manifest", "index.json", "oci-layout"}


def flip_everywhere(root: Path, key: Path, capfd: pytest.CaptureFixture[str], count: int) -> dict[str, int]:
    """Flips a random bit at a time, as often in each kind of file; how many refusals there were of each kind."""
    source = random.Random(0)
    files = kinds(root)
    refused = dict.fromkeys(sorted(set(files.values())), 0)
    for number in range(count):
        kind = list(refused)[number % len(refused)]
        file = source.choice(sorted(path for path, each in files.items() if each == kind))
        bit = source.randrange(8 * file.stat().st_size)
        flip(file, bit)
        refusal(root, key, capfd, file, kind)
        refused[kind] += 1
        flip(file, bit)
    assert main.run(["verify", str(root), "--key", str(key)]) == 0
    return refused


def test_200_flipped_bits_in_a_signed_bundle_are_200_refusals_by_name(
    root: Path, keys: signing.Pair, capfd: pytest.CaptureFixture[str]
):
    refused = flip_everywhere(root, keys.public, capfd, 200)

    assert set(refused) == KINDS
    assert sum(refused.values()) == 200
    assert min(refused.values()) >= 16


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_each_single_bit_of_the_oci_files_is_needed(
    root: Path, keys: signing.Pair, capfd: pytest.CaptureFixture[str], name: str
):
    for bit in range(8 * (root / name).stat().st_size):
        flip(root / name, bit)
        with pytest.raises(BundleError, match=f"bundle {root}: (oci-layout|index.json|blob)"):
            store.open(root)
        flip(root / name, bit)


def bent(data: bytes, source: random.Random) -> bytes:
    """A signature with a byte changed, a piece cut out or a value put in the place of another."""
    place = source.randrange(len(data))
    how = source.randrange(3)
    if how == 0:
        return data[:place] + bytes([data[place] ^ 1 << source.randrange(8)]) + data[place + 1 :]
    if how == 1:
        return data[:place] + data[place + source.randrange(1, 400) :]
    document = json.loads(data)
    inner = source.choice([document, document["verificationMaterial"], document["dsseEnvelope"]])
    inner[source.choice(list(inner))] = source.choice([None, 0, "", [], {}, [{}], "e30=", {"hint": "x"}])
    return json.dumps(document).encode()


def test_a_bent_signature_is_refused_or_means_the_same_and_never_crashes(root: Path, keys: signing.Pair):
    source = random.Random(1)
    data = signing.signature_of(root).read_bytes()
    admit, found = sign.by_public_key(keys.public), signing.manifest(root)
    refusals = 0
    for _ in range(400):
        changed = bent(data, source)
        if said := refusal_of(lambda changed=changed: admit(root, found, changed)):
            refusals += 1
            assert said.startswith(f"bundle {root}: signature "), changed
            assert "\n" not in said
        else:
            assert payload(changed) == payload(data)

    assert refusals > 350


def refusal_of(look: Callable[[], object]) -> str:
    try:
        look()
    except BundleError as error:
        return str(error)
    return ""


def payload(signature: bytes) -> bytes:
    return base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"])


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"verificationMaterial": 3}'])
def test_what_is_no_signature_at_all_is_refused_in_a_line(root: Path, keys: signing.Pair, data: bytes):
    signing.put(root, "signature", data)

    assert "signature does not hold (" in fault(root, sign.by_public_key(keys.public))


def test_a_signature_that_names_no_key_is_refused_and_prints_nothing(
    root: Path, keys: signing.Pair, capfd: pytest.CaptureFixture[str]
):
    document = json.loads(signing.signature_of(root).read_bytes())
    document["verificationMaterial"]["publicKey"] = {"hint": ""}
    signing.put(root, "signature", json.dumps(document).encode())

    assert "it does not say with which key it was made" in fault(root, sign.by_public_key(keys.public))
    assert capfd.readouterr().out == ""


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[signing.Authority, ...]:
    """A root, an authority below it, and one that signs."""
    folder = tmp_path_factory.mktemp("certificates")
    top = signing.certify(folder, "top")
    middle = signing.certify(folder, "middle", top)
    return top, middle, signing.certify(folder, "signer", middle, authority=False)


def test_a_certificate_is_accepted_up_to_its_root_and_to_no_other(
    root: Path, tmp_path: Path, certified: tuple[signing.Authority, ...]
):
    top, middle, signer = certified
    stranger = signing.certify(tmp_path, "stranger")
    name = store.open(root).digest

    sign.sign(root, signer.private, certificate=signer.file, chain=[middle.file])

    assert len(store.verify(root, admit=sign.by_certificate([top.file])).blobs) == 10
    assert store.open(root).digest == name
    assert "does not hold (" in fault(root, sign.by_certificate([stranger.file]))
    assert signing.model_signing(root, "certificate", "--certificate_chain", top.file).returncode == 0
    assert signing.model_signing(root, "certificate", "--certificate_chain", stranger.file).returncode == 1


def test_a_certificate_right_below_its_root_needs_no_chain(root: Path, tmp_path: Path):
    top = signing.certify(tmp_path, "top")
    signer = signing.certify(tmp_path, "signer", top, authority=False)

    sign.sign(root, signer.private, certificate=signer.file)

    assert len(store.verify(root, admit=sign.by_certificate([top.file])).blobs) == 10
    assert signing.model_signing(root, "certificate", "--certificate_chain", top.file).returncode == 0


@pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated")  # model-signing's own
def test_an_authority_that_may_not_sign_files_is_refused(root: Path, certified: tuple[signing.Authority, ...]):
    top, middle, _ = certified
    sign.sign(root, middle.private, certificate=middle.file)

    assert "cannot be used for signing" in fault(root, sign.by_certificate([top.file]))


def test_a_key_and_a_certificate_do_not_stand_for_each_other(
    root: Path, keys: signing.Pair, certified: tuple[signing.Authority, ...]
):
    top, middle, signer = certified

    by_key = fault(root, sign.by_certificate([top.file]))
    sign.sign(root, signer.private, certificate=signer.file, chain=[middle.file])
    by_certificate = fault(root, sign.by_public_key(keys.public))

    assert "(it was made with a key, not with a certificate)" in by_key
    assert "(it was made with a certificate, not with a key)" in by_certificate


@pytest.mark.parametrize("password", [b"secret", "Gruß".encode()])
def test_an_encrypted_key_takes_its_password_from_a_file(tmp_path: Path, refused: Callable[..., str], password: bytes):
    pair = signing.pair(tmp_path, "secret", password=password)
    synthetic.write(tmp_path / "b")
    (tmp_path / "right").write_bytes(password + b"\n")
    (tmp_path / "wrong").write_bytes(b"wrong")
    given = ["sign", tmp_path / "b", "--key", pair.private]

    assert "Password was not given" in refused(2, *given)
    assert "Incorrect password" in refused(2, *given, "--password-file", tmp_path / "wrong")
    assert "--password-file" in refused(2, *given, "--password-file", tmp_path / "none")
    assert main.run([*map(str, given), "--password-file", str(tmp_path / "right")]) == 0
    assert len(store.verify(tmp_path / "b", admit=sign.by_public_key(pair.public)).blobs) == 7


UNFIT = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "another curve": lambda: ec.generate_private_key(ec.SECP256K1()),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_key_of_another_kind_is_named(tmp_path: Path, refused: Callable[..., str], kind: str):
    synthetic.write(tmp_path / "b")
    key = signing.pem(tmp_path / "key.pem", UNFIT[kind]())

    said = refused(2, "sign", tmp_path / "b", "--key", key)

    assert said.startswith(f"key {key}: ")
    assert said.endswith("P-256, P-384 or P-521")


@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "public", "private"])
def test_what_is_no_key_is_named_and_changes_nothing(
    tmp_path: Path, keys: signing.Pair, refused: Callable[..., str], kind: str
):
    synthetic.write(tmp_path / "b")
    (tmp_path / "directory").mkdir()
    (tmp_path / "empty").write_bytes(b"")
    files = {"public": keys.public, "private": keys.private}
    file = files.get(kind, tmp_path / kind)

    if kind != "private":
        assert refused(2, "sign", tmp_path / "b", "--key", file).startswith(f"key {file}: ")
    if kind != "public":
        assert refused(2, "verify", tmp_path / "b", "--key", file).startswith(f"key {file}: ")
    if kind not in files:
        said = refused(2, "verify", tmp_path / "b", "--certificate-chain", file)
        assert said.startswith(f"certificate {file}: ")


def test_options_that_do_not_go_together_are_usage_errors(
    root: Path, keys: signing.Pair, refused: Callable[..., str], certified: tuple[signing.Authority, ...]
):
    top, middle, signer = certified
    given = ["sign", root, "--key", signer.private]

    assert "give --certificate too" in refused(2, *given, "--chain", middle.file)
    assert "give one of them" in refused(2, "verify", root, "--key", keys.public, "--certificate-chain", top.file)
    assert "takes no password beside a certificate" in refused(
        2, *given, "--certificate", signer.file, "--password-file", signer.file
    )
    assert "does not match" in refused(2, "sign", root, "--key", keys.private, "--certificate", signer.file)


def test_the_commands_print_the_digest_and_that_the_signature_holds(
    root: Path, keys: signing.Pair, capfd: pytest.CaptureFixture[str]
):
    name = store.open(root).digest

    assert main.run(["sign", str(root), "--key", str(keys.private), "--json"]) == 0
    signed = json.loads(capfd.readouterr().out)
    assert main.run(["verify", str(root), "--key", str(keys.public), "--json"]) == 0
    verified = json.loads(capfd.readouterr().out)
    assert main.run(["verify", str(root), "--key", str(keys.public)]) == 0

    assert signed == {"digest": name, "signature": digest.digest_of(signing.signature_of(root).read_bytes())}
    assert verified == {"digest": name, "blobs": 10, "signed": "holds", "provenance": True}
    assert capfd.readouterr().out == f"the signature holds\n10 blobs as built\n{name}\n"


def test_verify_says_whether_there_is_a_signature_that_was_not_checked(
    root: Path, document: Callable[..., dict], capfd: pytest.CaptureFixture[str]
):
    unchecked = document("verify", root)["signed"]
    main.run(["verify", str(root)])
    first = capfd.readouterr().out.splitlines()[0]
    unsigned(root)

    assert (unchecked, first) == ("not checked", "signed, not checked")
    assert document("verify", root)["signed"] == "no"
    main.run(["verify", str(root)])
    assert capfd.readouterr().out.splitlines()[0] == "signed: no"


def test_an_unsigned_bundle_and_another_key_exit_5(
    root: Path, keys: signing.Pair, others: signing.Pair, refused: Callable[..., str]
):
    assert "does not hold" in refused(5, "verify", root, "--key", others.public)
    assert "does not hold" in refused(5, "run", root, "--prompt", "x", "--key", others.public)
    unsigned(root)
    assert "is not signed" in refused(5, "verify", root, "--key", keys.public)
    assert "is not signed" in refused(5, "run", root, "--prompt", "x", "--key", keys.public)


def test_without_the_library_the_extra_is_named(
    root: Path, keys: signing.Pair, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    for name in [name for name in sys.modules if name.partition(".")[0] == "model_signing"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "OpenSSL", None)

    for arguments in (["sign", root, "--key", keys.private], ["verify", root, "--key", keys.public]):
        assert "pip install 'jax-aot[sign]'" in refused(1, *arguments)


def test_the_library_is_imported_only_when_a_key_is_given(pristine: Path):
    code = (
        "import sys; from aot.bundle import sign, store; from aot.cli.commands import verify; import aot.runtime.model;"
        f"store.verify({str(pristine)!r} and __import__('pathlib').Path({str(pristine)!r}));"
        "print(*{name.partition('.')[0] for name in sys.modules} & {'model_signing', 'sigstore', 'OpenSSL'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "\n"


@pytest.fixture(scope="module")
def signed_tiny(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, keys: signing.Pair) -> Path:
    root = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("signed") / "b"))
    sign.sign(root, keys.private)
    return root


def test_a_signed_model_loads_with_its_key_and_weights_follow_the_policy(
    signed_tiny: Path, tmp_path: Path, keys: signing.Pair, others: signing.Pair
):
    root = Path(shutil.copytree(signed_tiny, tmp_path / "b"))
    with aot.load(root, key=str(keys.public)) as model:
        expected = model.generate("def main(", max_new_tokens=4).token_ids
    with pytest.raises(BundleError, match="signature does not hold"):
        aot.load(root, key=others.public)
    with pytest.raises(InputError, match=f"key {tmp_path}/none: "):
        aot.load(root, key=tmp_path / "none")
    blob = store.open(root).index.weights.blobs[-1]
    flip(synthetic.blob_file(root, blob.digest), 8 * (blob.bytes - 1))

    with pytest.raises(BundleError, match="is damaged"):
        aot.load(root, key=keys.public, verify="always")
    with aot.load(root, key=keys.public) as model, pytest.raises(BundleError, match="is damaged"):
        model.generate("def main(", max_new_tokens=4)
    with aot.load(root, key=keys.public, verify="never") as model:
        assert len(model.generate("def main(", max_new_tokens=4).token_ids) == len(expected)


def test_the_command_line_generates_from_a_signed_model(signed_tiny: Path, keys: signing.Pair):
    done = command("run", signed_tiny, "--prompt", "import", "--max-new-tokens", 4, "--key", keys.public, "--json")

    assert (done.code, done.document["compilations"]) == (0, 0), done.err


def test_model_signings_own_command_accepts_a_built_bundle(signed_tiny: Path, keys: signing.Pair):
    assert signing.model_signing(signed_tiny, "key", "--public_key", keys.public).returncode == 0


@pytest.mark.slow
def test_200_flipped_bits_in_a_built_and_signed_bundle_are_200_refusals_by_name(
    signed_tiny: Path, tmp_path: Path, keys: signing.Pair, capfd: pytest.CaptureFixture[str]
):
    root = Path(shutil.copytree(signed_tiny, tmp_path / "b"))

    assert sum(flip_everywhere(root, keys.public, capfd, 200).values()) == 200
