"""Bundles for meshes of eight virtual devices: the same tokens as on one device, whatever is split over what."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from commands import aot, built
from oracles import records

TENSOR = {"head": "model", "kv_head": "model", "mlp": "model", "vocab": "model"}
PARTITIONS: dict[str, Any] = {
    "data 8": {"mesh": {"data": 8}, "axes": {"batch": "data"}},
    "model 2": {"mesh": {"model": 2}, "axes": TENSOR},
    "model 4": {"mesh": {"model": 4}, "axes": TENSOR, "indivisible": "replicate"},
    "data 2, model 4": {
        "mesh": {"data": 2, "model": 4},
        "axes": {"batch": "data", **TENSOR},
        "indivisible": "replicate",
    },
    "fsdp 8": {"mesh": {"fsdp": 8}, "axes": {"batch": "fsdp", "hidden": "fsdp"}},
    "fsdp 8, gathered": {
        "mesh": {"fsdp": 8},
        "axes": {"batch": "fsdp", "hidden": "fsdp"},
        "gather_params_once": True,
    },
    "sequence 2": {"mesh": {"sequence": 2}, "axes": {"sequence": "sequence", "key_sequence": "sequence"}},
    "decode apart": {"mesh": {"a": 2, "b": 2}, "axes": {"batch": "a", "mlp": "b", "decode": {"batch": ["a", "b"]}}},
}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_every_mesh_gives_the_tokens_of_one_device(family, tmp_path):
    records.read(f"text/{family}").write(tmp_path / "checkpoint")
    wanted = answers(tmp_path, None)

    found = {name: answers(tmp_path, partition) for name, partition in PARTITIONS.items()}

    assert found == dict.fromkeys(PARTITIONS, wanted)


def answers(home: Path, partition: Any) -> Any:
    """Token ids of some prompts, greedy and drawn, with two sequences each; no compilation on the way."""
    manifest = {
        "name": "m",
        "model": {"checkpoint": "checkpoint"},
        "precompile": {"batch_size": 8, "prefill_length": 16},
        "generation": {"max_new_tokens": 16, "streaming_chunks": 8, "eos_token_id": []},
        "platforms": ["cpu"],
        "partition": partition,
    }
    (home / "manifest.yaml").write_text(json.dumps(manifest))
    bundle = built(home / "manifest.yaml", Path(tempfile.mkdtemp(dir=home)) / "bundle")
    ids = [option for prompt in ("1,2,3", "7", "9,8,7,6,5,4,3,2,1,2,3") for option in ("--prompt-ids", prompt)]
    found = []
    for options in ([], ["--temperature", "0.8", "--seed", "3", "--n", "2"]):
        done = aot("run", bundle, *ids, *options, "--json")
        assert done.code == 0, done.err
        assert done.document["compilations"] == 0
        found.append([result["token_ids"] for result in done.document["results"]])
    return found
