"""A bundle on a mesh of virtual devices, in a process that has them."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import mesh_serving
import pytest
from commands import aot

import aot as api
from aot import partition
from aot.bundle import store
from aot.runtime.device.client import numpy_dtype
from aot.runtime.fitting import entries
from aot.runtime.place import Place
from manifests import MESH

SERVING = Path(mesh_serving.__file__)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def served(mesh_bundle) -> Any:
    """What a process with four devices found."""
    done = run(SERVING, mesh_bundle, "[3, 1, 0, 2]")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def alone(small_bundle) -> Any:
    """What one device gives."""
    with api.load(small_bundle) as model:
        return mesh_serving.answers(model)


@pytest.mark.parametrize("way", ["generate", "forks", "stream", "call", "threads"])
def test_a_mesh_gives_the_tokens_of_one_device(served, alone, way):
    assert served["answers"][way] == alone[way]


def test_a_mesh_compiles_nothing(served):
    assert served["compilations"] == 0


def test_each_device_holds_its_share_of_the_weights_and_no_more(served, mesh_bundle):
    index = store.open(mesh_bundle).index
    layout = entries.weight_layout(index, Place("cpu", tuple(MESH.items())))

    arrays = {f"weight/{path}": array for path, array in index.weights.arrays.items()}
    share = {
        slot: math.prod(partition.device_share(array.shape, MESH, layout[slot])) * numpy_dtype(array.dtype).itemsize
        for slot, array in arrays.items()
    }
    split = [slot for slot in arrays if any(layout[slot])]

    assert served["held"]["weights"] == {str(device): sum(share.values()) for device in range(4)}
    assert len(split) > len(arrays) / 2  # or the law says nothing
    assert all("norm" in slot for slot in set(arrays) - set(split))


def test_each_device_holds_its_share_of_the_cache_and_no_more(served):
    share = served["cache"] // 4  # rows over data, heads over model

    assert served["cache"] > 0
    assert served["held"]["cache"] == {str(device): share for device in range(4)}


def test_more_devices_than_this_process_has_are_refused(mesh_bundle):
    done = run("-c", f"import jax; jax.devices(); import aot; aot.load({str(mesh_bundle)!r}, devices=4)")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "aot.errors.MachineError: devices: 4 of cpu are needed, this process has 1; "
        "load it before jax begins, or set jax_num_cpu_devices"
    )


@pytest.mark.parametrize("devices", [0, -1, True, 1.5, [], [0, 0], [-1], "4", [[0]]])
def test_devices_that_say_nothing_are_refused(mesh_bundle, devices):
    with pytest.raises(api.InputError, match="load: devices must be a number above 0 or a list of ids, got "):
        api.load(mesh_bundle, devices=devices)


PLACING = """
import json, mmap, sys
import numpy as np
from aot.runtime.device import mesh_client

def memory(name):
    (line,) = [line for line in open("/proc/self/status") if line.startswith(name)]
    return int(line.split()[1]) * 1024

file = open(sys.argv[1], "rb")
array = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.float32).reshape(1024, -1)
array.sum()
client = mesh_client.MeshClient("cpu", (("data", 2), ("model", 2)))
client.put(np.zeros(2, np.float32))
for axes in [(None, None), ("data", None), (("data", "model"), None), ("data", "model")]:
    memory_before, base = memory("RssAnon"), array.ctypes.data
    placed = client.put(array, axes).block_until_ready()
    offsets = [shard.data.unsafe_buffer_pointer() - base for shard in placed.addressable_shards]
    print(json.dumps([offsets, memory("RssAnon") - memory_before, memory("VmHWM") - memory("VmRSS")]))
"""


def test_contiguous_shards_stay_in_the_file_and_others_cost_their_own_size(tmp_path):
    size = 1 << 25
    (tmp_path / "weights").write_bytes(bytes(size))

    done = run("-c", PLACING, tmp_path / "weights")
    whole, halves, quarters, tiles = map(json.loads, done.stdout.splitlines())

    slack = 1 << 22
    assert (whole[0], halves[0]) == ([0, 0, 0, 0], [0, 0, size // 2, size // 2])
    assert quarters[0] == [0, size // 4, size // 2, 3 * size // 4]
    assert max(whole[1], halves[1], quarters[1]) < slack
    assert abs(tiles[1] - size) < slack
    assert tiles[2] < slack  # and no more in between


@pytest.mark.slow
def test_a_bundle_of_a_mesh_alone_is_replayed_and_measured_there(mesh_bundle):
    replayed = aot("verify", mesh_bundle, "--run", "--json").document["golden"]["entries"]
    figures = aot("bench", mesh_bundle, "--rounds", 1, "--json").document["figures"]

    assert {entry["verdict"] for entry in replayed} == {"reproduced"}
    assert figures["compilations"]["median"] == 0


@pytest.mark.parametrize("platforms", ["tpu,cpu", "cuda", "cpu"])
def test_platforms_that_this_machine_lacks_do_not_keep_a_mesh_from_the_cpu(mesh_bundle, platforms):
    given = ("run", mesh_bundle, "--prompt-ids", "1,2,3", "--max-new-tokens", "4", "--json")
    done = aot(*given, JAX_PLATFORMS=platforms)

    assert done.code == 0, done.err
    assert done.document["results"][0]["token_ids"] == aot(*given).document["results"][0]["token_ids"]
