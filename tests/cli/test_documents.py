"""The documents that commands print with --json, and what `aot plan` counts against what a build then stores."""

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import aot
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from places import TINY

from aot import precompile
from aot.builder.stages import releases
from aot.cli import main
from manifests import ISAS, Family, small_manifest

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
KEY = re.compile(r"[0-9a-f]{64}")


def test_plan_prints_combos_programs_and_compiles(document: Callable[..., dict]) -> None:
    plan = document("plan", TINY)

    assert list(plan)[:5] == ["combos", "programs", "compiles", "meshes", "valid_until"]
    assert list(plan)[5:] == ["model", "bytes", "cached", "remarks", "seconds"]
    assert all(list(combo) == ["key", *precompile.FIELDS] for combo in plan["combos"])
    assert all(KEY.fullmatch(combo["key"]) for combo in plan["combos"])
    sizes = [(combo["batch_size"], combo["prefill_length"], combo["max_length"]) for combo in plan["combos"]]
    assert sizes == [(1, 32, 96), (1, 64, 128), (4, 32, 96), (4, 64, 128)]


def stored(inspected: dict) -> dict[str, int]:
    """Distinct programs of a bundle, and distinct (program, target) pairs."""
    entries = inspected["entries"]
    programs = {call for entry in entries for chain in entry["programs"] for call in chain["calls"]}
    executables = [made for entry in entries for made in entry["executables"]]
    return {"programs": len(programs), "compiles": len({(e["program"], json.dumps(e["target"])) for e in executables})}


def counted(plan: dict) -> dict[str, int]:
    return {"programs": plan["programs"], "compiles": plan["compiles"]}


def test_plan_counts_what_a_build_of_several_platforms_stores(tiny_bundle: Path, document: Callable[..., dict]) -> None:
    assert counted(document("plan", TINY)) == stored(document("inspect", tiny_bundle))


def test_plan_counts_what_a_build_for_several_targets_stores(
    small_bundle: Path, tmp_path: Path, document: Callable[..., dict]
) -> None:
    made = stored(document("inspect", small_bundle))

    assert made["compiles"] == len(ISAS) * made["programs"]
    assert counted(document("plan", small_manifest(tmp_path))) == made


def test_plan_counts_layers_that_differ_as_a_build_stores_them(
    family: Callable[[str], Family], document: Callable[..., dict]
) -> None:
    mixed = family("qwen2")  # two kinds of layer: with a sliding window and without

    manifest = mixed.checkpoint.parent / "manifest.yaml"
    assert counted(document("plan", manifest)) == stored(document("inspect", mixed.bundle))


SOME = """\
name: later
model: {{checkpoint: {checkpoint}, dtype: float32}}
precompile: {{expand: product, prefill_length: [8, 64]}}
generation: {{max_new_tokens: 8}}
platforms: [cpu, cuda]
targets: [{{cpu: {{}}}}]
"""
TENSOR = "partition: {mesh: {model: 2}, axes: {head: model, kv_head: model, mlp: model, vocab: model}}\n"


def test_plan_tells_what_each_device_of_a_mesh_holds(tmp_path: Path, document: Callable[..., dict]) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_text(SOME.format(checkpoint=TINY.parent / "tiny") + TENSOR)
    (found,) = document("plan", file)["meshes"]
    abstract = AbstractMesh((2,), ("model",))
    held = {"weights": 0, "state": 0}
    largest = {array["path"]: array for array in sorted(found["arrays"], key=lambda each: each["shape"])}
    for path, array in largest.items():
        kind = {"state": "state", "input": "", "value": ""}.get(path.partition("/")[0], "weights")
        shape = NamedSharding(abstract, PartitionSpec(*array["sharding"])).shard_shape(tuple(array["shape"]))
        if kind:
            held[kind] += math.prod(shape) * np.dtype(array["dtype"]).itemsize

    assert found["mesh"] == {"model": 2}
    assert held == {name: found["bytes_per_device"][name] for name in held}
    assert {rule["pattern"]: rule["matches"] for rule in found["rules"]}[".*/q_proj"] == 4


def test_plan_for_people_shows_keys_counts_and_remarks(tmp_path: Path, document: Callable[..., dict]) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(SOME.format(checkpoint=TINY.parent / "tiny"))
    done = aot("plan", file)
    lines = done.out.splitlines()

    assert (done.code, done.err) == (0, "")
    assert lines[0].split() == ["key", "batch_size", "prefill_length", "max_length"]
    assert [KEY.match(line) is not None for line in lines[1:3]] == [True, True]
    assert re.fullmatch(r"2 combos, \d+ programs, \d+ compiles \(cpu avx2, 32 threads\)", lines[3])
    assert lines[4].startswith("one device holds weights 4.0 MiB, state and KV cache ")
    assert lines[5] == f"valid until {releases.installed().valid_until}"
    assert lines[6] == "model qwen2 float32; tokenizer, a chat template; EOS 0, 2; weights are there"
    assert lines[7].startswith("remark: prefill_length: requests of 9 to 31 tokens are padded to 64, more than 2x")
    assert [f"remark: {remark}" for remark in document("plan", file)["remarks"]] == lines[7:]


def test_plan_says_what_was_found_of_the_model_and_what_was_not(
    tmp_path: Path, document: Callable[..., dict], capfd: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(TINY.parent / "tiny/config.json", bare)
    file = tmp_path / "some.yaml"
    file.write_text(SOME.format(checkpoint=bare))
    whole, found = document("plan", TINY)["model"], document("plan", file)["model"]
    assert main.run(["plan", str(file)]) == 0

    there = {"tokenizer": True, "chat_template": True, "weights": True}
    assert whole == {"family": "qwen2", "dtype": "float32", "quantization": None, "eos_token_id": [0, 2], **there}
    assert found == {**whole, **dict.fromkeys(there, False), "eos_token_id": found["eos_token_id"]}
    assert "; no tokenizer; " in capfd.readouterr().out


def test_inspect_prints_all_that_scripts_need(tiny_bundle: Path, document: Callable[..., dict]) -> None:
    found = document("inspect", tiny_bundle)

    assert list(found) == ["digest", "valid_until", "combos", "entries", "weights"]
    assert found["digest"] == document("verify", tiny_bundle)["digest"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["valid_until"])
    planned = document("plan", TINY)
    assert (found["combos"], found["valid_until"]) == (planned["combos"], planned["valid_until"])
    keys = {combo["key"] for combo in found["combos"]}
    for entry in found["entries"]:
        assert list(entry) == ["key", "phase", "programs", "executables"]
        assert entry["key"] in keys
        assert [chain["platform"] for chain in entry["programs"]] == ["cpu", "cuda", "tpu"]
        for chain in entry["programs"]:
            assert list(chain) == ["platform", "mesh", "calls", "repeat"]
            assert all(DIGEST.fullmatch(call) for call in chain["calls"])
        on_cpu = set(entry["programs"][0]["calls"])
        assert {made["program"] for made in entry["executables"]} == on_cpu
        for made in entry["executables"]:
            assert list(made)[:4] == ["program", "target", "digest", "bytes"]
            assert list(made)[4:] == ["flags", "compiler", "requires", "memory", "cost", "tuning"]
            assert made["target"] == {"cpu": {"isa": "avx2", "threads": 32}}
            blob = tiny_bundle / "blobs/sha256" / made["digest"].removeprefix("sha256:")
            assert blob.stat().st_size == made["bytes"]


def test_verify_counts_every_blob(tiny_bundle: Path, document: Callable[..., dict]) -> None:
    found = document("verify", tiny_bundle)

    assert list(found) == ["digest", "blobs", "signed", "provenance"]
    assert (found["signed"], found["provenance"]) == ("no", True)
    assert DIGEST.fullmatch(found["digest"])
    assert found["blobs"] == len(os.listdir(tiny_bundle / "blobs/sha256"))


def test_check_gives_a_verdict_for_every_entry(tiny_bundle: Path, document: Callable[..., dict]) -> None:
    found = document("check", tiny_bundle)
    inspected = document("inspect", tiny_bundle)

    assert list(found) == ["entries", "valid_until", "expired"]
    assert (found["valid_until"], found["expired"]) == (inspected["valid_until"], False)
    assert [(e["key"], e["phase"]) for e in found["entries"]] == [(e["key"], e["phase"]) for e in inspected["entries"]]
    assert all(list(entry) == ["key", "phase", "verdict", "cause"] for entry in found["entries"])
    assert {entry["verdict"] for entry in found["entries"]} == {"ready"}


def test_run_prints_a_result_for_each_sequence(tiny_bundle: Path, document: Callable[..., dict]) -> None:
    options = ("--max-new-tokens", "3", "--n", "2", "--seed", "7", "--temperature", "1")
    found = document("run", tiny_bundle, "--prompt", "import ", "--prompt-ids", "5,6", *options)
    fields = {"text", "completed", "token_ids", "logprobs", "finish_reason", "prompt_tokens", "entry"}

    assert set(found) == {"results", "compilations", "timings"}
    assert type(found["compilations"]) is int
    assert [set(result) >= fields for result in found["results"]] == [True] * 4
    first, *_, last = found["results"]
    assert first["completed"] == "import " + first["text"]
    assert last["completed"] == [5, 6, *last["token_ids"]]
