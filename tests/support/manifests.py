"""Manifests that many tests build or plan, and what this machine can build of them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from oracles.records import Case
from places import TINY

from aot import isa
from aot.builder.compiling import cpu
from aot.errors import MachineError
from aot.targets import CpuTarget

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def _builds(name: str) -> bool:
    try:
        cpu.check(CpuTarget(name, 1))
    except MachineError:
        return False
    return True


ISAS = tuple(filter(_builds, isa.isa_names()))
"""Those that this machine can build for."""

RUN = tuple(
    name
    for name in isa.isa_names()
    if not isa.missing_features({"machine": "x86_64", "features": isa.find_baseline(name).kernel}, isa.this_machine())
)
"""Those whose code it runs."""

SMALL_MANIFEST = f"""\
name: small
model: {{checkpoint: tiny/, dtype: float32}}
precompile: {{batch_size: 2, prefill_length: 16}}
generation: {{max_new_tokens: 16, streaming_chunks: 4}}
platforms: [cpu]
targets: {json.dumps([{"cpu": {"isa": name, "threads": 32}} for name in ISAS])}
"""


def small_manifest(home: Path) -> Path:
    """A copy of the tiny checkpoint with a manifest of one shape and two targets."""
    shutil.copytree(TINY.parent / "tiny", home / "tiny")
    (home / "small.yaml").write_text(SMALL_MANIFEST)
    return home / "small.yaml"


MESH = {"data": 2, "model": 2}
MESH_MANIFEST = f"""\
name: mesh
model: {{checkpoint: tiny/, dtype: float32}}
precompile: {{batch_size: 2, prefill_length: 16}}
generation: {{max_new_tokens: 16, streaming_chunks: 4}}
platforms: [cpu]
targets: [{{cpu: {{isa: avx2, threads: 32}}}}]
partition:
  mesh: {json.dumps(MESH)}
  axes: {{batch: data, head: model, kv_head: model, mlp: model, vocab: model}}
"""


def mesh_manifest(home: Path) -> Path:
    """A copy of the tiny checkpoint with a manifest of one shape for a mesh."""
    shutil.copytree(TINY.parent / "tiny", home / "tiny")
    (home / "mesh.yaml").write_text(MESH_MANIFEST)
    return home / "mesh.yaml"


@dataclass(frozen=True)
class Family:
    """A random checkpoint of one architecture, what torch makes of it and our bundle."""

    name: str
    checkpoint: Path
    oracle: Case
    bundle: Path


FAMILY_MANIFEST = """\
name: family
model: {checkpoint: checkpoint/, dtype: float32}
precompile: {expand: product, batch_size: [1, 3], prefill_length: [8, 16], max_length: 48}
generation: {max_new_tokens: 20, streaming_chunks: 4, logits: all}
platforms: [cpu]
"""


def family_manifest(oracle: Case, home: Path) -> Path:
    """The checkpoint of a record with a manifest of four shapes."""
    oracle.write(home / "checkpoint", sharded="shard" in oracle.given)
    (home / "manifest.yaml").write_text(FAMILY_MANIFEST)
    return home / "manifest.yaml"
