"""What XLA would end a process of a mesh over is refused before it is asked."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aot as api
from aot.bundle import store
from aot.bundle.index.records import ArgumentRecord, ProgramRecord
from aot.errors import BundleError, MachineError
from aot.runtime.device import client, mesh_contract

HEADER = (
    "HloModule jit_step, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias) }, entry_computation_layout={("
    "f32[2,4]{1,0}, /*index=1*/bf16[8]{0:T(8,128)}, s32[], pred[2]{0})->(f32[2,4]{1,0}, u16[3,1]{1,0}, s8[])}, "
    "allow_spmd_sharding_propagation_to_parameters={false,false}, num_partitions=4"
)


class Half:
    """Splits the first axis in two where it says so."""

    def __init__(self, axes: Any) -> None:
        self.axes = axes

    def shard_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(side // 2 if axis else side for side, axis in zip(shape, self.axes, strict=True))


def array(name: str, kind: str, *shape: int, split: str | None = None, donated: bool = False) -> ArgumentRecord:
    return ArgumentRecord(name, kind, shape, (split, *(None for _ in shape[1:]))[: len(shape)], donated)


TAKES = (
    array("x", "float32", 4, 4, split="data"),
    array("w", "bfloat16", 8),
    array("n", "int32"),
    array("p", "bool", 2),
)
GIVES = (array("x", "float32", 4, 4, split="data"), array("bits", "uint16", 3, 1), array("q", "int8"))
PROGRAM = ProgramRecord("", 0, "step", "cpu", (("data", 2),), TAKES, GIVES, ())


def test_an_executable_that_takes_and_gives_what_the_index_says_is_taken():
    mesh_contract.check_executable(HEADER, PROGRAM, Half)
    mesh_contract.check_executable("HloModule of a compiler that does not say", PROGRAM, Half)


@pytest.mark.parametrize(
    ("at", "record", "said"),
    [
        (0, array("x", "float32", 4, 6, split="data"), r"takes f32\[2, 4\] at 0, the index says f32\[2, 6\]"),
        (0, array("x", "float32", 4, 4), r"takes f32\[2, 4\] at 0, the index says f32\[4, 4\]"),
        (1, array("w", "uint16", 8), r"takes bf16\[8\] at 1, the index says u16\[8\]"),
        (3, None, r"takes pred\[2\] at 3, the index says nothing"),
    ],
)
def test_an_executable_of_another_contract_is_named_before_it_is_called(at, record, said):
    changed = (*TAKES[:at], *([] if record is None else [record]), *TAKES[at + 1 :])

    with pytest.raises(BundleError, match=f"program step: its executable {said}; fetch it again or rebuild"):
        mesh_contract.check_executable(HEADER, dataclasses.replace(PROGRAM, arguments=changed), Half)
    with pytest.raises(BundleError, match=r"its executable gives s8\[\] at 2, the index says nothing"):
        mesh_contract.check_executable(HEADER, dataclasses.replace(PROGRAM, results=GIVES[:2]), Half)


def test_an_executable_for_other_devices_is_named_before_it_is_loaded(mesh_bundle: Path):
    """XLA would end the process over it, from within."""
    opened = store.open(mesh_bundle)
    program = opened.index.programs[0]
    data = opened.read(program.executables[0].digest, program.executables[0].bytes)

    mesh_contract.check_partitions(data, program, 4)
    mesh_contract.check_partitions(b"of a compiler that spells it otherwise", program, 4)
    with pytest.raises(BundleError, match="its executable is for 4 devices, the index says 8"):
        mesh_contract.check_partitions(data, program, 8)


WRONG = """
import sys
import numpy as np
import aot
from aot.errors import BundleError
from aot.runtime import execute
from aot.golden import exercise
from aot.runtime.execute import State

def wide(buffer):
    array = np.asarray(buffer)
    return put(np.concatenate([array, array], axis=-1), buffer.sharding.spec)

def words(buffer):
    return put(np.asarray(buffer).view(np.int32), buffer.sharding.spec)

CHANGES = {
    "shape": lambda state, first, second: state.update({first: wide(state[first])}),
    "dtype": lambda state, first, second: state.update({first: words(state[first])}),
    "sharding": lambda state, first, second: state.update({first: put(np.asarray(state[first]), (None,) * 4)}),
    "twice": lambda state, first, second: state.update({first: state[second]}),
    "deleted": lambda state, first, second: state[first].delete(),
}
with aot.load(sys.argv[1], devices=4) as model:
    (executor,) = model._running
    put = executor.client.put
    prefill, decode = ({e.phase: e for e in model._entries.values()}[phase] for phase in ("prefill", "decode"))
    for name, change in CHANGES.items():
        _, state = executor.run(prefill, execute.checked_inputs(prefill, exercise.exercise_inputs(prefill)))
        change(state, "state/cache/0/key", "state/cache/1/key")
        try:
            given = execute.checked_inputs(decode, exercise.exercise_inputs(decode))
            executor.run(decode, given, State(prefill, state, 2))
        except BundleError as error:
            print(name, str(error).partition(":")[0], flush=True)
"""


def test_arguments_that_a_program_does_not_take_are_refused_and_end_no_process(mesh_bundle: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRONG, mesh_bundle], capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [
        f"{name} program decode" for name in ("shape", "dtype", "sharding", "twice", "deleted")
    ]


@pytest.mark.parametrize(
    "given", [{"devices": [1 << 31]}, {"replicas": 1 << 40}, {"devices": [0, 5000], "replicas": 2}]
)
def test_devices_that_no_process_has_are_refused_before_they_are_made(small_bundle, given):
    with pytest.raises(MachineError, match=r"4096"):
        api.load(small_bundle, **given)
    assert client.MOST_DEVICES == 4096
