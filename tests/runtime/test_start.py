"""The way to the first token: what it imports, what it loads, where the weights are."""

import logging
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import toy
from commands import built

import aot
from aot.bundle import store
from aot.bundle.index.records import ArgumentRecord
from aot.errors import InputError, MachineError
from aot.runtime.device import client, jax_client, jaxlib_client, opening
from aot.runtime.execute import Executor
from aot.runtime.fitting import entries, fit

# pickle asks for a name of Jython, msgspec for typing_extensions where it is there
ALLOWED = {"aot", "numpy", "jaxlib", "ml_dtypes", "msgspec", "typing_extensions", "org"}
MODULES = 63
"""Of aot, on the way; each costs half a millisecond and more."""
STANDARD = 75
"""Of Python's own, beside those that numpy and jaxlib bring: 74 in Python 3.11, 56 in 3.13."""
WAY = "import sys, aot; next(aot.load(sys.argv[1]).start([[1, 2, 3]], aot.runtime.options.RequestOptions()).steps)"


def imported(code: str, *arguments: object) -> list[str]:
    """The modules that some code takes, in the order in which their imports end."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return re.findall(r"^import time:\s*\d+ \|\s*\d+ \|\s*(\S+)$", done.stderr, re.MULTILINE)


def test_the_way_to_the_first_token_imports_little_beside_numpy_and_jaxlib(tiny_bundle):
    bare = imported("pass")
    brought = imported("import numpy, ml_dtypes, msgspec; from jaxlib import _jax, xla_client")
    way = [name for name in imported(WAY, tiny_bundle) if name not in bare]
    packages = [name.split(".")[0] for name in way]

    assert set(packages) - sys.stdlib_module_names <= ALLOWED
    assert packages.count("aot") <= MODULES
    assert sum(name not in brought for name in way) - packages.count("aot") <= STANDARD


def address(buffer: object) -> int:
    return np.asarray(memoryview(buffer)).__array_interface__["data"][0]  # type: ignore[arg-type]


@pytest.mark.parametrize("compiling", [False, True], ids=["jaxlib", "jax"])
def test_weights_are_used_where_the_files_are_mapped(tiny_bundle, monkeypatch, compiling):
    maps, mapped = [], store.Bundle.map
    monkeypatch.setattr(store.Bundle, "map", lambda *of: maps.append(mapped(*of)) or maps[-1])
    device = opening.open_client(entries.ONE_DEVICE, compiling=compiling)
    executor = Executor(store.open(tiny_bundle), "strict", client=device)

    placed = [address(buffer) for buffer in executor._weights.values()]

    views = [np.frombuffer(view, np.uint8) for view in maps]
    ranges = [range(view.ctypes.data, view.ctypes.data + view.size) for view in views]
    assert len(placed) > 10
    assert all(any(at in span for span in ranges) for at in placed)


HOLD = """
import sys, aot, numpy as np
with aot.load(sys.argv[1]) as model:
    model.call("scale", x=np.ones(int(sys.argv[2]), np.float32))
    told = open("/proc/self/smaps").read()
    own = [line.split() for line in told.splitlines() if line.startswith(("Private_", "Anonymous"))]
    print(sum(int(words[1]) for words in own), flush=True)
    sys.stdin.read()
"""


def test_a_second_process_adds_almost_no_memory(tmp_path):
    megabytes = 96
    rows = 8
    shown = {}
    for size in (rows, megabytes << 18):
        (tmp_path / str(size)).mkdir()
        bundle = built(toy.manifest(tmp_path / str(size), weights_size=size), tmp_path / str(size) / "bundle")
        command = [sys.executable, "-c", HOLD, bundle, "1"]
        holding = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)]
        holding[0].stdout.readline()
        holding.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        shown[size] = int(holding[1].stdout.readline())
        for process in holding:
            process.communicate()

    assert shown[megabytes << 18] - shown[rows] < 0.15 * megabytes * 1024


def test_a_request_loads_the_executables_that_it_needs_and_the_rest_comes_afterwards(tiny_bundle):
    with aot.load(tiny_bundle) as model:
        found = [e for e in model._entries.values() if e.phase in ("prefill", "decode")]
        run = model.start([[1, 2, 3]], aot.runtime.options.RequestOptions(max_new_tokens=1))
        loaded = model._executors[0].executables._made
        before = set(loaded)
        next(run.steps)
        first = set(loaded)
        list(run.steps)
        wanted = {program.digest for entry in found for program, _ in entry.calls}
        patience = time.monotonic() + 60
        while not wanted <= set(loaded) and time.monotonic() < patience:
            time.sleep(0.05)

        assert before == set()
        assert {run.sequences[0].entry} == {e.combo_key for e in found if first == {p.digest for p, _ in e.calls}}
        assert wanted <= set(loaded)


def test_loading_ahead_ends_with_the_model(tiny_bundle):
    model = aot.load(tiny_bundle)
    model.generate([1, 2, 3], max_new_tokens=1)
    model.close()

    for thread in threading.enumerate():
        if thread.name == "aot-load":
            thread.join(30)
    assert not [thread for thread in threading.enumerate() if thread.name == "aot-load"]


@pytest.mark.parametrize("name", ["array_result_handler", "LoadedExecutable", "Client"])
def test_an_unknown_jaxlib_is_left_for_the_way_through_jax_with_a_line(monkeypatch, caplog, name):
    monkeypatch.setattr(jaxlib_client._jax, name, None)

    with caplog.at_level(logging.WARNING, "aot"):
        made = opening.open_client(entries.ONE_DEVICE, compiling=False)

    assert type(made) is jax_client.JaxClient
    assert re.fullmatch("taking the slower way through jax: jaxlib: .+", caplog.messages[0])


def test_both_clients_give_the_same(tiny_bundle, monkeypatch):
    texts = []
    for name in ("jaxlib", "jax"):
        monkeypatch.setenv(opening.CLIENT_VARIABLE, name)
        with aot.load(tiny_bundle) as model:
            assert type(model._executors[0].client).__module__ == f"aot.runtime.device.{name}_client"
            texts.append(model.generate("def main(", max_new_tokens=12, temperature=0.8, seed=3).text)

    assert texts[0] == texts[1]


@pytest.mark.parametrize("dtype", ["bool", "int8", "int32", "uint32", "float16", "bfloat16", "float32"])
@pytest.mark.parametrize("compiling", [False, True], ids=["jaxlib", "jax"])
def test_arrays_come_back_as_they_went(dtype, compiling):
    given = np.arange(6).reshape(2, 3).astype(client.numpy_dtype(dtype))
    device = opening.open_client(entries.ONE_DEVICE, compiling=compiling)

    found = device.read(device.put(given))

    assert (found.dtype, found.shape) == (given.dtype, (2, 3))
    assert (found == given).all()


def test_an_unknown_client_is_refused(tiny_bundle, monkeypatch):
    monkeypatch.setenv(opening.CLIENT_VARIABLE, "tpu")

    with pytest.raises(InputError, match=r"^AOT_CLIENT: must be jaxlib or jax, got 'tpu'$"):
        aot.load(tiny_bundle)


def test_the_version_of_jaxlib_is_that_of_its_package():
    from importlib import metadata

    assert fit.jaxlib_version() == metadata.version("jaxlib")


def test_arrays_that_an_executable_does_not_take_and_those_beyond_memory_are_named(tiny_bundle):
    bundle = store.open(tiny_bundle)
    program = next(program for program in bundle.index.programs if program.platform == "cpu")
    for here in (jaxlib_client.JaxlibClient(), jax_client.JaxClient(jax_client.find_devices("cpu", 1)[0])):
        record = entries.fitting_executable(program)
        run = here.load(bundle.read(record.digest, record.bytes), program)

        with pytest.raises(MachineError, match=f"program {program.name}: XLA does not run it: INVALID_ARGUMENT"):
            run([here.put(np.zeros((1, 7), np.int32))] * len(program.arguments))
        with pytest.raises(MachineError, match=r"cache: no memory for \[140737488355328\] of float32"):
            here.zeros(ArgumentRecord("cache", "float32", (1 << 47,), (None,)))
