"""Manifests and checkpoints that cannot be built: a line each, exit code 2, and nothing is written."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from places import TINY
from safetensors.numpy import load_file, save_file

from aot.cli import main

MANIFEST = """\
name: some
model: {checkpoint: tiny/, dtype: float32}
precompile: {expand: product, batch_size: 1, prefill_length: [8, 16], max_length: null}
generation: {max_new_tokens: 8}
platforms: [cpu]
"""
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with the tiny checkpoint and a manifest of it, changed by tests."""
    shutil.copytree(TINY.parent / "tiny", tmp_path / "tiny")
    (tmp_path / "some.yaml").write_text(MANIFEST)
    return tmp_path


@pytest.mark.parametrize("command", ["plan", "build"])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: some", "name: {some", ":2: not YAML: while parsing a flow mapping"),
        ("prefill_length", "prefil_length", "unknown key 'prefil_length'; did you mean 'prefill_length'?"),
        ("[8, 16]", "[]", "precompile.prefill_length: must have a value, got []"),
        ("batch_size: 1", "batch_size: 0", "precompile.batch_size: must be an integer from 1"),
        ("[8, 16]", "[8, 8]", "precompile.prefill_length: values must be distinct, got [8, 8]"),
        ("max_length: null", "max_length: 12", "precompile.max_length: must be above prefill_length"),
        ("tiny/", "nowhere/", "model.checkpoint: checkpoint"),
        ("platforms: [cpu]", "platforms: [cpu]\ntargets: [{cpu: {isa: neon}}]", "is of another architecture"),
        ("max_new_tokens: 8", "max_new_tokens: 8, pad_token_id: 99999", "must be below the size of the vocabulary"),
    ],
)
def test_a_faulty_manifest_is_refused_in_a_line_with_its_place(
    home: Path, refused: Callable[..., str], command: str, old: str, new: str, said: str
) -> None:
    file = home / "some.yaml"
    file.write_text(MANIFEST.replace(old, new))
    assert file.read_text() != MANIFEST

    line = refused(2, command, file)
    assert line.startswith(f"{file}:")
    assert said in line


@pytest.mark.parametrize(("name", "said"), [("none.yaml", "No such file"), ("tiny", "Is a directory")])
def test_a_manifest_that_is_none_is_named(home: Path, refused: Callable[..., str], name: str, said: str) -> None:
    assert refused(2, "build", home / name).startswith(f"{home / name}: {said}")


def without(name: str) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize("command", ["plan", "build"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("model.norm.weight"), "'model.norm.weight' is missing"),
        (lambda tensors: tensors.update(surplus=np.zeros(2, np.float32)), "'surplus'"),
        (lambda tensors: tensors.update({EMBEDDING: np.zeros((3, 5), np.float32)}), "shape"),
        (lambda tensors: tensors.update({EMBEDDING: tensors[EMBEDDING].astype(np.int64)}), "I64"),
    ],
)
def test_tensors_that_do_not_fit_the_model_are_named(
    home: Path, refused: Callable[..., str], command: str, change: Callable, said: str
) -> None:
    file = home / "tiny/model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)

    line = refused(2, command, home / "some.yaml")
    assert said in line
    assert "model.checkpoint" in line


def header_of(data: bytes) -> bytes:
    return data[8 : 8 + struct.unpack("<Q", data[:8])[0]]


@pytest.mark.parametrize("command", ["plan", "build"])
@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:4],
        lambda data: data[:200],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: struct.pack("<Q", 1 << 60) + data[8:],
        lambda data: struct.pack("<Q", len(data)) + data[8:],
        lambda data: data[:8] + b"x" * len(header_of(data)) + data[8 + len(header_of(data)) :],
    ],
    ids=["empty", "no header", "half a header", "truncated", "too long", "huge header", "only header", "no JSON"],
)
def test_a_corrupt_safetensors_file_is_named(
    home: Path, refused: Callable[..., str], command: str, change: Callable[[bytes], bytes]
) -> None:
    file = home / "tiny/model.safetensors"
    file.write_bytes(change(file.read_bytes()))

    assert "model.safetensors" in refused(2, command, home / "some.yaml")


def changed_config(directory: Path, **fields: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize("command", ["plan", "build"])
def test_an_unknown_architecture_is_named_with_those_that_are_known(
    home: Path, refused: Callable[..., str], command: str
) -> None:
    changed_config(home / "tiny", architectures=["MambaForCausalLM"], model_type="mamba")

    assert "unknown architecture 'MambaForCausalLM', supported are LlamaForCausalLM" in refused(
        2, command, home / "some.yaml"
    )


@pytest.mark.parametrize("command", ["plan", "build"])
def test_weights_in_a_pickle_file_alone_are_never_read(home: Path, refused: Callable[..., str], command: str) -> None:
    (home / "tiny/model.safetensors").unlink()
    (home / "tiny/pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")

    assert "pickle files are never read" in refused(2, command, home / "some.yaml")


def test_a_checkpoint_without_weights_can_be_planned_and_not_built(
    home: Path, refused: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    (home / "tiny/model.safetensors").unlink()

    assert "holds no weights" in refused(2, "build", home / "some.yaml", "-o", home / "new/bundle")
    assert main.run(["plan", str(home / "some.yaml"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["programs"] > 0
