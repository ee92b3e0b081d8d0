"""Mutations of all that is not the index: OCI's files, weights, tokenizer, attachments, programs."""

import json
import random
from typing import Any

from aot import digest
from fuzzing import changes, spoiling
from fuzzing.draft import Draft
from fuzzing.index_mutations import Mutation


def index_json(rng: random.Random, draft: Draft) -> str:
    """`index.json`."""
    return _oci_file(rng, draft, "index.json")


def oci_layout(rng: random.Random, draft: Draft) -> str:
    """`oci-layout`."""
    return _oci_file(rng, draft, "oci-layout")


def _oci_file(rng: random.Random, draft: Draft, name: str) -> str:
    sound = (draft.source.bundle.path / name).read_bytes()
    data, said = spoiling.json_document(rng, sound)
    draft.after.append(lambda root: (root / name).write_bytes(data))
    return f"{name}: {said}"


def manifest(rng: random.Random, draft: Draft) -> str:
    """The image manifest, under its new digest."""
    data, said = spoiling.json_document(rng, draft.source.blob(draft.source.bundle.manifest_digest))
    draft.seal = lambda _: data
    return f"image manifest: {said}"


def tokenizer(rng: random.Random, draft: Draft) -> str:
    """tokenizer.json."""
    return _tokenizer_file(rng, draft, "tokenizer.json", spoiling.json_document)


def tokenizer_config(rng: random.Random, draft: Draft) -> str:
    """tokenizer_config.json."""
    return _tokenizer_file(rng, draft, "tokenizer_config.json", spoiling.json_document)


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
        record = {"digest": digest.digest_of(text.encode()), "bytes": len(text.encode())}
        draft.blobs[record["digest"]] = text.encode()
        draft.index["tokenizer"]["chat_template.jinja"] = record
        draft.free = True
        return f"chat_template.jinja: {changes.shown(text)}"

    def spell(_: random.Random, data: bytes) -> tuple[bytes, str]:
        chosen: Any = rng.choice((text, text, [{"name": "default", "template": text}], [{"name": 1}], {"x": text}))
        return spoiling.spelled(json.loads(data) | {"chat_template": chosen}), f"chat_template {changes.shown(chosen)}"

    return _tokenizer_file(rng, draft, "tokenizer_config.json", spell)


def _tokenizer_file(rng: random.Random, draft: Draft, name: str, spoil: spoiling.Spoil) -> str:
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
    draft.attachments[kind], said = spoiling.json_document(rng, draft.attachments[kind])
    return f"{kind}: {said}"


def weights_header(rng: random.Random, draft: Draft) -> str:
    """The header of a weights file, sealed anew."""
    record, data = _weights(rng, draft)
    end = 8 + int.from_bytes(data[:8], "little")
    if rng.random() < 0.2:
        length = rng.choice((0, 1, end, end - 9, len(data), 2**31, 2**63, 2**64 - 1))
        draft.replace(record["digest"], length.to_bytes(8, "little") + data[8:])
        return f"weights: a header of {length} bytes"
    header, said = spoiling.json_document(rng, data[8:end].rstrip())
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
    data, said = spoiling.some_bytes(rng, draft.source.blob(name))
    draft.replace(name, data)
    return f"{kind} {name[7:19]}, sealed anew: {said}"


_ALL = (
    *(index_json, oci_layout, manifest, tokenizer, tokenizer_config, template, golden, provenance),
    *(weights_header, weights_values, executable, program),
)

FAMILIES: dict[str, Mutation] = {mutate.__name__.replace("_", " "): mutate for mutate in _ALL}
