"""What a plan asks of each device, by dimensions alone, and whether the devices of a target have it."""

import json
import math
from pathlib import Path

import pytest
from commands import aot

from aot.builder.lowering import footprint
from aot.builder.lowering.footprint import Footprint
from aot.targets import CpuTarget, CudaTarget, TpuTarget

UNTRACEABLE = """
from aot import chain
from aot.chain import Array


class Model:
    def abstract_weights(self):
        return {"weight": Array((4,), "float32")}

    def weights(self):
        raise NotImplementedError

    def chains(self, combo, platform, mesh):
        inputs = {"x": (Array((300,), "float32"), (None,))}
        return {"f": chain.single("f", untraceable, self.abstract_weights(), inputs, {"y": ()})}


def untraceable(weights, x):
    raise AssertionError("it was traced")
"""
QWEN2_72B = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
}
MANIFEST = """\
name: large
model: {{checkpoint: large}}
precompile: {{batch_size: 1, prefill_length: 1024}}
partition: {{mesh: {{model: {devices}}}, axes: {{head: model, kv_head: model, mlp: model, vocab: model}}}}
platforms: [tpu]
targets: [{{tpu: {{topology: "v5e:{topology}"}}}}]
"""


def manifest(directory: Path, devices: int, topology: str) -> Path:
    (directory / "large").mkdir(exist_ok=True)
    (directory / "large/config.json").write_text(json.dumps(QWEN2_72B))
    (directory / "large.yaml").write_text(MANIFEST.format(devices=devices, topology=topology))
    return directory / "large.yaml"


def test_a_plan_is_counted_without_tracing(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(UNTRACEABLE)
    path = tmp_path / "a.yaml"
    path.write_text('name: a\nmodel: {factory: "model:Model"}\nprecompile: {batch_size: 1}\nplatforms: [cpu]\n')

    done = aot("plan", path, "--json")

    assert done.code == 0, done.err
    assert done.document["programs"] == 1
    assert done.document["meshes"][0]["bytes_per_device"] == {"weights": 16, "state": 0}


@pytest.mark.parametrize("command", ["plan", "build"])
def test_weights_and_state_beyond_a_devices_memory_are_refused_before_anything_else(
    tmp_path: Path, command: str
) -> None:
    done = aot(command, manifest(tmp_path, 8, "2x4"), cwd=tmp_path)

    fault = (
        "manifest 'large': targets[0]: tpu: each device would hold weights of 16.9 GiB and state of 0.0 GiB, and has "
        "16.0 GiB; give a mesh of more devices"
    )
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(fault)
    assert done.err.count("\n") == 1


TARGETS = (
    CpuTarget("avx2", 32),
    TpuTarget("v5e:2x2", mesh={"model": 4}),
    CudaTarget("l4", devices=4, mesh={"model": 4}),
)


def held(weights: int, state: int) -> tuple[Footprint, ...]:
    return Footprint({}, (), (), 1 << 50, 0), Footprint({"model": 4}, (), (), weights, state)


@pytest.mark.parametrize(
    ("share", "remarked", "refused"),
    [(0.89, [], []), (0.9, [1], []), (1.0, [1], []), (1.01, [1], [1]), (1.3, [1], [1])],
)
def test_a_target_is_remarked_on_from_90_percent_and_refused_beyond_its_memory(
    share: float, remarked: list[int], refused: list[int]
) -> None:
    memory = 16 << 30  # of a v5e; an l4 has 22.5 GiB
    found = held(memory // 2, math.ceil(share * memory) - memory // 2)

    remarks, faults = list(footprint.nearly_full(TARGETS, found)), list(footprint.oversized(TARGETS, found))

    assert [line.partition(":")[0] for line in remarks if "tpu" in line] == [f"targets[{n}]" for n in remarked]
    assert [line.partition(":")[0] for line in faults] == [f"targets[{n}]" for n in refused]


def test_a_remark_names_the_shares() -> None:
    (remark,) = footprint.nearly_full(TARGETS[1:2], held(14 << 30, 1 << 30))

    assert remark == (
        "targets[0]: tpu: each device would hold weights of 14.0 GiB and state of 1.0 GiB of the 16.0 GiB that it has, "
        "94 %, and programs take memory of their own beside them"
    )
