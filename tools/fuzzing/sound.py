"""The three sound bundles that mutants are made of: small, built once, and kept until aot or jaxlib change."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from aot import digest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = 2

_PREFIX = "sound-"

_TARGET = "targets: [{cpu: {isa: avx2, threads: 2}}]"
_GENERATION = "generation: {max_new_tokens: 8, streaming_chunks: 4}"
_MANIFESTS = {
    "text": f"""\
name: text
model: {{checkpoint: tiny/, dtype: float32}}
precompile: {{batch_size: 2, prefill_length: 48}}
{_GENERATION}
platforms: [cpu]
{_TARGET}
""",
    "vision": f"""\
name: vision
model: {{checkpoint: tiny-vision/, dtype: float32}}
precompile: {{expand: product, batch_size: 1, prefill_length: 48, vision_included: [false, true],
             vision_height: [48, 48], vision_width: [48, 64]}}
{_GENERATION}
platforms: [cpu]
{_TARGET}
""",
    "mesh": f"""\
name: mesh
model: {{checkpoint: tiny/, dtype: float32}}
precompile: {{batch_size: 2, prefill_length: 48}}
{_GENERATION}
platforms: [cpu]
{_TARGET}
partition:
  mesh: {{data: 1, model: 2}}
  axes: {{batch: data, head: model, kv_head: model, mlp: model, vocab: model}}
""",
}
KINDS = tuple(_MANIFESTS)

_PICTURE = ROOT / "manifests" / "tiny-vision" / "red-circle.png"
_QUESTIONS = {
    "text": "What does read do?",
    "mesh": "What does read do?",
    "vision": [{"type": "image"}, {"type": "text", "text": "What is this?"}],
}
_GREEDY = {
    "--max-new-tokens": 8,
    "--temperature": 0,
    "--top-k": 0,
    "--top-p": 1,
    "--min-p": 0,
    "--repetition-penalty": 1,
    "--presence-penalty": 0,
    "--frequency-penalty": 0,
    "--seed": 1,
    "--n": 1,
}
"""Whatever a bundle defaults to, so that its tokens are those of the sound one or wrong."""


@dataclass(frozen=True)
class Sound:
    """One of them, and what is asked of its mutants."""

    kind: str
    path: Path
    request: tuple[str, ...]
    """Arguments of `aot run` behind the bundle."""


def bundles(directory: Path) -> dict[str, Sound]:
    """All three by kind; those that are not in the directory are built there, in place of what an older aot built."""
    home = directory / _state()
    if not home.exists():
        for older in directory.glob(f"{_PREFIX}*"):
            shutil.rmtree(older)
        staged = directory / f"{_PREFIX}unfinished"
        staged.mkdir(parents=True)
        for kind in KINDS:
            _build(kind, staged)
        staged.rename(home)
    return {kind: Sound(kind, home / kind, _request(kind, home)) for kind in KINDS}


def _state() -> str:
    """Names all that the bundles follow from."""
    sources = [*sorted((ROOT / "aot").rglob("*.py")), *sorted((ROOT / "aot").rglob("*.json")), Path(__file__)]
    found = {str(path.relative_to(ROOT)): digest.of_file(path) for path in sources}
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    name = digest.digest_of(digest.canonical_json({"sources": found, "versions": versions}))
    return f"{_PREFIX}{digest.hex_of(name)[:16]}"


def _build(kind: str, home: Path) -> None:
    checkpoint = "tiny-vision" if kind == "vision" else "tiny"
    _cut(ROOT / "manifests" / checkpoint, home / checkpoint)
    (home / f"{kind}.yaml").write_text(_MANIFESTS[kind])
    (home / f"{kind}.json").write_text(json.dumps([{"role": "user", "content": _QUESTIONS[kind]}]))
    command = [sys.executable, "-m", "aot.cli.main", "build", home / f"{kind}.yaml", "-o", home / kind, "--jobs", "2"]
    done = subprocess.run(list(map(str, command)), capture_output=True)
    if done.returncode:
        sys.exit(f"the {kind} bundle was not built: {done.stderr.decode()}")


def _request(kind: str, home: Path) -> tuple[str, ...]:
    more = ["--image", _PICTURE] if kind == "vision" else ["--prompt-ids", "9,8,7"]
    options = [part for pair in _GREEDY.items() for part in pair]
    return tuple(map(str, ["--chat", home / f"{kind}.json", *more, *options, "--json"]))


def _cut(checkpoint: Path, destination: Path) -> None:
    """A checkpoint with its first layers alone."""
    if destination.exists():
        return
    shutil.copytree(checkpoint, destination)
    file = destination / "config.json"
    file.write_text(json.dumps(_shallow(json.loads(file.read_text()))))
    tensors = load_file(destination / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if _depth(name) < LAYERS}
    save_file(kept, destination / "model.safetensors", {"format": "pt"})


def _depth(name: str) -> int:
    found = re.search(r"\.(?:layers|blocks)\.(\d+)\.", name)
    return int(found[1]) if found else 0


_SHALLOW: Mapping[str, Callable[[Any], Any]] = {
    "num_hidden_layers": lambda _: LAYERS,
    "depth": lambda _: LAYERS,
    "layer_types": lambda types: types[:LAYERS],
}


def _shallow(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {name: _SHALLOW.get(name, _shallow)(value) for name, value in config.items()}
