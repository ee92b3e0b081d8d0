"""Mutations of all that is not the index: OCI's files, weights, tokenizer, attachments, executables, files as such."""

import functools
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aot import digest
from aot.bundle.store import BLOBS
from fuzzing import changes
from fuzzing.draft import Draft, fresh
from fuzzing.index_mutations import Mutation

_DEPTH = 100_000
_HOSTILE = (
    b"", b"\xff\xfe", b"[]", b"{}", b"null", b"NaN", b"1" * 5000, b"[" * _DEPTH, b'{"a":' * _DEPTH, b'{"a":1,"a":2}',
    b"1e400", b'"\\ud800"', b'{"\\ud800":1}', b" " * (2 << 20),
)  # fmt: skip
"""JSON that is none, or none that anyone wants."""


def _json(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """A JSON document changed in meaning, or spoiled as bytes."""
    if rng.random() < 0.2:
        return _bytes(rng, data)
    made = {"it": json.loads(data)}
    said = changes.change(rng, made, changes.places(made["it"]) if rng.random() < 0.95 else None)
    return _spelled(made.get("it")), said


def _spelled(value: Any) -> bytes:
    """Canonical JSON but for NaN and infinities, which it has no spelling for."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _bytes(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    how = rng.choice((_flip, _cut, _hostile))
    return how(rng, data)


def _flip(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    at, bit = rng.randrange(max(1, len(data))), 1 << rng.randrange(8)
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :] if data else b"x", f"bit {bit} of byte {at} flipped"


def _cut(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    at, gone = rng.randrange(len(data) + 1), rng.choice((0, 1, 8, len(data)))
    piece = rng.choice((b"", b"\0", b"{", b"}", b'"', b",", b"\xff", data[:64]))
    return data[:at] + piece + data[at + gone :], f"{gone} bytes out at {at}, {changes.shown(piece)} in"


def _hostile(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    made = rng.choice(_HOSTILE)
    return made, f"{changes.shown(made)} instead"


def index_json(rng: random.Random, draft: Draft) -> str:
    """`index.json`."""
    return _oci_file(rng, draft, "index.json")


def oci_layout(rng: random.Random, draft: Draft) -> str:
    """`oci-layout`."""
    return _oci_file(rng, draft, "oci-layout")


def _oci_file(rng: random.Random, draft: Draft, name: str) -> str:
    sound = (draft.source.bundle.path / name).read_bytes()
    data, said = _json(rng, sound)
    draft.after.append(lambda root: (root / name).write_bytes(data))
    return f"{name}: {said}"


def manifest(rng: random.Random, draft: Draft) -> str:
    """The image manifest, under its new digest."""
    data, said = _json(rng, draft.source.blob(draft.source.bundle.manifest_digest))
    draft.seal = lambda _: data
    return f"image manifest: {said}"


def tokenizer(rng: random.Random, draft: Draft) -> str:
    """tokenizer.json."""
    return _tokenizer_file(rng, draft, "tokenizer.json", _json)


def tokenizer_config(rng: random.Random, draft: Draft) -> str:
    """tokenizer_config.json."""
    return _tokenizer_file(rng, draft, "tokenizer_config.json", _json)


_TEMPLATES = (
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "{{ 'a'|center(10**9) }}",
    "{{ messages[0].__class__.__mro__ }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{% include '/etc/passwd' %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ raise_exception('no') }}",
    "{{ 1 / 0 }}",
    "{{ messages[9] }}",
    "{{ messages | tojson | length ** 9999 }}",
    "{{ (" * 200 + "1" + ") }}" * 200,
    "{{ 2 ** 10 ** 10 }}",
    "{{ strftime_now('%Y') }}",
    "{{ messages | map(attribute='x.y') | list }}",
    "{% set x = namespace(a='a') %}{% for i in range(40) %}{% set x.a = x.a + x.a %}{% endfor %}{{ x.a }}",
    "{{ '%0999999999d' | format(1) }}",
    "{{ messages | batch(0) | list }}",
    "{{ ('a,' * 10**8).split(',') | length }}",
    "{{ [0] * 10**9 }}",
    "{% if %}",
    "{{ 'x' | unknown }}",
    "{{ caller() }}",
    "{{ 'x' | indent(10**9) }}",
    "{{ lipsum(10**6) }}",
    "",
    "\0",
)


def template(rng: random.Random, draft: Draft) -> str:
    """The chat template: another one in its configuration, or in a file of its own."""
    text = rng.choice(_TEMPLATES)
    if rng.random() < 0.5:
        record = {"digest": digest.of(text.encode()), "bytes": len(text.encode())}
        draft.blobs[record["digest"]] = text.encode()
        draft.index["tokenizer"]["chat_template.jinja"] = record
        return f"chat_template.jinja: {changes.shown(text)}"

    def spell(_: random.Random, data: bytes) -> tuple[bytes, str]:
        chosen: Any = rng.choice((text, text, [{"name": "default", "template": text}], [{"name": 1}], {"x": text}))
        return _spelled(json.loads(data) | {"chat_template": chosen}), f"chat_template {changes.shown(chosen)}"

    return _tokenizer_file(rng, draft, "tokenizer_config.json", spell)


def _tokenizer_file(rng: random.Random, draft: Draft, name: str, spoil: Callable[..., tuple[bytes, str]]) -> str:
    record = draft.index["tokenizer"][name]
    data, said = spoil(rng, draft.source.blob(record["digest"]))
    draft.replace(record["digest"], data)
    draft.free = True
    return f"{name}: {said}"


def golden(rng: random.Random, draft: Draft) -> str:
    """Golden outputs."""
    return _attachment(rng, draft, "golden")


def provenance(rng: random.Random, draft: Draft) -> str:
    """Provenance."""
    return _attachment(rng, draft, "provenance")


def _attachment(rng: random.Random, draft: Draft, kind: str) -> str:
    if rng.random() < 0.05:
        del draft.attachments[kind]
        return f"{kind}: left out"
    draft.attachments[kind], said = _json(rng, draft.attachments[kind])
    return f"{kind}: {said}"


def weights_header(rng: random.Random, draft: Draft) -> str:
    """The header of a weights file, sealed anew."""
    record, data = _weights(rng, draft)
    end = 8 + int.from_bytes(data[:8], "little")
    if rng.random() < 0.2:
        length = rng.choice((0, 1, end, end - 9, len(data), 2**31, 2**63, 2**64 - 1))
        draft.replace(record["digest"], length.to_bytes(8, "little") + data[8:])
        return f"weights: a header of {length} bytes"
    header, said = _json(rng, data[8:end].rstrip())
    header += b" " * (-(8 + len(header)) % 64)
    draft.replace(record["digest"], len(header).to_bytes(8, "little") + header + data[end:])
    return f"weights header: {said}"


def weights_values(rng: random.Random, draft: Draft) -> str:
    """Values of weights, sealed anew: bits, NaN, zeros, or a file that ends before or after its data."""
    record, data = _weights(rng, draft)
    begin = 8 + int.from_bytes(data[:8], "little")
    at = rng.randrange(begin, len(data)) // 4 * 4
    made = {
        "a bit": data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :],
        "NaN from there": data[:at] + b"\0\0\xc0\x7f" * ((len(data) - at) // 4),
        "zeros from there": data[:at] + bytes(len(data) - at),
        "the end": data[:at],
        "one byte more": data + b"\0",
        "nothing but the header": data[:begin],
    }
    how = rng.choice(list(made))
    draft.replace(record["digest"], made[how])
    return f"weights at {at}: {how}"


def _weights(rng: random.Random, draft: Draft) -> tuple[dict[str, Any], bytes]:
    record = rng.choice(draft.index["weights"]["blobs"])
    return record, draft.source.blob(record["digest"])


def executable(rng: random.Random, draft: Draft) -> str:
    """An executable, sealed anew; trusted code then, so nothing runs it."""
    found = [record for program in draft.index["programs"] for record in program["executables"]]
    draft.trusted = False
    return _sealed(rng, draft, rng.choice(found)["digest"], "executable")


def program(rng: random.Random, draft: Draft) -> str:
    """A portable program, sealed anew."""
    return _sealed(rng, draft, rng.choice(draft.index["programs"])["digest"], "program")


def _sealed(rng: random.Random, draft: Draft, name: str, kind: str) -> str:
    data, said = _bytes(rng, draft.source.blob(name))
    draft.replace(name, data)
    return f"{kind} {name[7:19]}, sealed anew: {said}"


def damage(rng: random.Random, draft: Draft) -> str:
    """A flipped bit in any blob, its digest kept."""
    name, kind = _any(rng, draft)
    data, said = _flip(rng, draft.source.blob(name))
    return _in_place(draft, name, kind, data, said)


def shortened(rng: random.Random, draft: Draft) -> str:
    """A blob cut short, or lengthened, or empty, its digest kept."""
    name, kind = _any(rng, draft)
    data = draft.source.blob(name)
    at = rng.randrange(len(data))
    made, said = rng.choice(((data[:at], f"cut after {at}"), (data + b"\0", "a byte more"), (b"", "empty")))
    return _in_place(draft, name, kind, made, said)


def swapped(rng: random.Random, draft: Draft) -> str:
    """The bytes of one blob under the name of another."""
    (name, kind), (other, _) = _any(rng, draft), _any(rng, draft)
    if name == other:
        return damage(rng, draft)
    return _in_place(draft, name, kind, draft.source.blob(other), f"bytes of {other[7:19]}")


def odd_file(rng: random.Random, draft: Draft) -> str:
    """Something else where a file should be, or a file where nothing should be."""
    what = rng.choice(("index.json", "oci-layout", "blob", "blob", "blob", "blobs", "surplus"))
    if what == "surplus":
        return _surplus(rng, draft)
    place = BLOBS / digest.hex_of(_any(rng, draft)[0]) if what == "blob" else Path(what)
    how = rng.choice(list(_KINDS))
    draft.after.append(functools.partial(_put, place=place, make=_KINDS[how]))
    draft.damaged = how != "a link to its bytes"
    return f"{place}: {how}"


_KINDS: dict[str, Callable[[Path, Path], object]] = {
    "nothing": lambda path, moved: None,
    "a pipe": lambda path, moved: os.mkfifo(path),
    "a directory": lambda path, moved: path.mkdir(),
    "a loop": lambda path, moved: path.symlink_to(path.name),
    "a link to nothing": lambda path, moved: path.symlink_to("nowhere"),
    "/dev/zero": lambda path, moved: path.symlink_to("/dev/zero"),
    "/dev/full": lambda path, moved: path.symlink_to("/dev/full"),
    "/proc/self/mem": lambda path, moved: path.symlink_to("/proc/self/mem"),
    "a link out": lambda path, moved: path.symlink_to("/etc/passwd"),
    "a link to its bytes": lambda path, moved: path.symlink_to(moved.resolve()),
}


def _put(root: Path, place: Path, make: Callable[[Path, Path], object]) -> None:
    elsewhere = root.with_name("moved")
    elsewhere.mkdir()
    make(root / place, (root / place).rename(elsewhere / place.name))


def _surplus(rng: random.Random, draft: Draft) -> str:
    name = rng.choice(
        ("notes.txt", ".hidden", "blobs/md5", "blobs/sha256/x", f"blobs/sha256/{'0' * 64}", "new\nline", "\udcff")
    )
    draft.after.append(lambda root: (root / name).write_bytes(b""))
    draft.damaged = True
    return f"{name!r} besides"


def _any(rng: random.Random, draft: Draft) -> tuple[str, str]:
    """Any blob, each kind as likely as others."""
    bundle = draft.source.bundle
    kinds: dict[str, list[str]] = {"index": [bundle.digest], "manifest": [bundle.manifest_digest]}
    for layer in bundle.manifest.layers:
        kinds.setdefault(layer.media_type, []).append(layer.digest)
    kind = rng.choice(list(kinds))
    return rng.choice(kinds[kind]), kind


def _in_place(draft: Draft, name: str, kind: str, data: bytes, said: str) -> str:
    draft.after.append(lambda root: fresh(root / BLOBS / digest.hex_of(name), data))
    draft.damaged = True
    return f"{kind} {name[7:19]}, digest kept: {said}"


_ALL = (
    *(index_json, oci_layout, manifest, tokenizer, tokenizer_config, template, golden, provenance),
    *(weights_header, weights_values, executable, program, damage, shortened, swapped, odd_file),
)

FAMILIES: dict[str, Mutation] = {mutate.__name__.replace("_", " "): mutate for mutate in _ALL}
