"""A small bundle with every kind of blob, whose program and executable are only bytes that say so."""

import copy
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from aot import digest
from aot.bundle import oci, weight_writer, weights
from aot.bundle.index.records import (
    ArgumentRecord,
    BindingRecord,
    BlobRecord,
    ChainRecord,
    ComboRecord,
    EntryRecord,
    ExecutableRecord,
    GenerationRecord,
    Index,
    PartitionRecord,
    PhaseRecord,
    ProgramRecord,
    WeightRecord,
    WeightsRecord,
)
from aot.bundle.writer import Writer
from aot.precompile import Combo
from aot.vision import Images

PROGRAM = b"a portable program"
EXECUTABLE = b"an executable for a target"
JAXLIB = "0.10.2"
TOKENIZER = b'{"model": {}}'
ROWS = ("batch_size", None)
ARRAYS = {
    "embed": np.arange(15, dtype=np.float32).reshape(5, 3),
    "layers.0.scale": np.array([1, -2, 3], dtype=np.int8),
    "layers.1.scale": np.array([4, 5, -6], dtype=np.int8),
}


def blob(data: bytes) -> BlobRecord:
    return BlobRecord(digest.digest_of(data), len(data))


def write(destination: Path, replace: bool = False, jaxlib: str = JAXLIB) -> str:
    """Publishes the bundle, its executable as if of a jaxlib, and gives its digest."""
    with Writer.stage(destination) as writer:
        for data in (PROGRAM, EXECUTABLE, TOKENIZER):
            writer.add(data)
        plan = weights.plan({path: (array.dtype.name, array.shape) for path, array in ARRAYS.items()})
        return writer.publish(index(weight_writer.write_tensors(writer, plan, ARRAYS.items()), jaxlib), replace)


def index(stored: WeightsRecord | None = None, jaxlib: str = JAXLIB) -> Index:
    """Its index; without the record of stored weights, one that names a blob nobody wrote."""
    return Index(
        format=1,
        valid_until="2026-12-31",
        origin=None,
        versions={"jax": "0.10.2", "jaxlib": jaxlib},
        settings={"jax_enable_x64": False},
        model={"family": "synthetic", "config": {"layers": 2, "rates": (0.5, 1), "tied": True, "scaling": None}},
        generation=_generation(),
        images=Images(
            token=7,
            before=(5,),
            after=(6,),
            unit=28,
            extra=0,
            channels=3,
            rotary="grid",
            recipe=({"step": "resize", "resample": "bicubic", "fit": "stretch"}, {"step": "rescale", "factor": 0.5}),
        ),
        rules={"rules": ((".*", ("model",)),), "indivisible": "error"},
        partitions=(PartitionRecord((("model", 1),), ((".*", 3),)),),
        waivers=("a_custom_call",),
        combos=tuple(_combo(length) for length in (32, 64)),
        phases={
            "prefill": PhaseRecord({"tokens": ROWS}, {"token": ROWS, "logprob": (None,)}, ()),
            "decode": PhaseRecord({"stop": ROWS}, {"tokens": ROWS, "logprobs": (None,), "steps": (None,)}, ()),
        },
        programs=(_program(jaxlib),),
        bindings=(
            BindingRecord(("weight/layers.0.scale", "input/tokens"), ("state/cache", "value/x")),
            BindingRecord(("weight/layers.1.scale", "value/x"), ("output/logprob", "output/token")),
            BindingRecord(("weight/layers.0.scale", "input/stop"), ("output/logprobs", "value/x")),
            BindingRecord(("weight/layers.1.scale", "value/x"), ("output/steps", "output/tokens")),
        ),
        entries=tuple(_entry(combo, phase) for combo in range(2) for phase in ("prefill", "decode")),
        weights=stored or _weights(),
        tokenizer={"tokenizer.json": blob(TOKENIZER)},
    )


def _weights() -> WeightsRecord:
    arrays = {path: WeightRecord(array.dtype.name, array.shape, 0) for path, array in ARRAYS.items()}
    return WeightsRecord((blob(b"weights"),), arrays)


def _generation() -> GenerationRecord:
    sampling = {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "presence_penalty": -1}
    key = _combo(32).key
    return GenerationRecord(16, 8, {key: 1}, 4, "none", (1, 2), 0, None, sampling)


def _combo(prefill_length: int) -> ComboRecord:
    combo = Combo(batch_size=1, prefill_length=prefill_length)
    return ComboRecord(combo.key, combo.dimensions())


def _program(jaxlib: str) -> ProgramRecord:
    arguments = (
        ArgumentRecord("scale", "int8", (3,), (None,)),
        ArgumentRecord("x", "int32", (1, 32), (None, None), donated=True),
    )
    executable = ExecutableRecord(
        {"cpu": {"isa": "avx2", "threads": 32}},
        digest.digest_of(EXECUTABLE),
        len(EXECUTABLE),
        ("--xla_cpu_max_isa=AVX2",),
        {"jaxlib": jaxlib},
        {"machine": "x86_64", "features": ("avx", "avx2")},
        {"arguments": 131, "outputs": 128, "aliased": 128, "temporaries": 0, "code": 0},
        {"flops": 96},
    )
    stored = blob(PROGRAM)
    return ProgramRecord(stored.digest, stored.bytes, "block", "cpu", (), arguments, arguments, (executable,))


def _entry(combo: int, phase: str) -> EntryRecord:
    calls = ((0, 0), (0, 1)) if phase == "prefill" else ((0, 2), (0, 3))
    return EntryRecord(combo, phase, (ChainRecord("cpu", (), calls),))


def opened(data: bytes) -> dict[str, Any]:
    """An encoded index as plain msgpack values, to be spoiled: its documents read."""
    value: dict[str, Any] = msgpack.unpackb(data)
    for holder, name in _documents(value):
        holder[name] = [msgpack.unpackb(row) for row in holder[name]]
    return value


def closed(value: dict[str, Any]) -> bytes:
    """The bytes of what `opened` gave, whatever has become of it."""
    whole = copy.deepcopy(value)
    for holder, name in _documents(whole):
        if isinstance(holder.get(name), list):
            holder[name] = [msgpack.packb(row) for row in holder[name]]
    return msgpack.packb(whole)


def _documents(value: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    return [(value, "programs"), (value, "arguments"), *((entry, "chains") for entry in value["entries"])]


def manifest_of(root: Path) -> Path:
    """The file of its image manifest."""
    named = oci.read_index((root / "index.json").read_bytes(), "index.json")
    return blob_file(root, named.digest)


def blob_file(root: Path, name: str) -> Path:
    return root / "blobs" / "sha256" / digest.hex_of(name)


def rewire(root: Path, data: bytes) -> None:
    """Gives a bundle another index, its digests in order, so that a fault in it is the only one; no attachments."""
    blob_file(root, digest.digest_of(data)).write_bytes(data)
    old = oci.read_manifest(manifest_of(root).read_bytes(), "manifest")
    config = oci.Descriptor(digest.digest_of(data), len(data), oci.CONFIG)
    for gone in (old.config, *old.attachments.values()):
        blob_file(root, gone.digest).unlink()
    reseal(root, oci.write_manifest(config, (layer for layer in old.layers if layer.subject is None)))


def reseal(root: Path, manifest: bytes) -> None:
    """Gives a bundle another image manifest."""
    manifest_of(root).unlink()
    blob_file(root, digest.digest_of(manifest)).write_bytes(manifest)
    (root / "index.json").write_bytes(oci.write_index(manifest))
