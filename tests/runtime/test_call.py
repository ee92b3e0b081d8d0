"""Model.call: what it puts on the device, what it takes untouched, and what it checks each time."""

import dataclasses
import threading
from collections import Counter

import numpy as np
import pytest
from serving import padded, prompts

import aot
from aot.bench import dispatch
from aot.bundle import store
from aot.errors import InputError
from aot.runtime.device import opening
from aot.runtime.execute import Executor, _Prepared
from aot.runtime.fitting import entries


@pytest.fixture(scope="module")
def model(family):
    with aot.load(family("qwen2").bundle) as model:
        yield model


@pytest.fixture
def executor(family):
    return Executor(store.open(family("qwen2").bundle), "strict")


def counted(monkeypatch, device):
    """The arrays that a client puts from now on."""
    given, put = [], device.put
    monkeypatch.setattr(device, "put", lambda array, axes: given.append(array) or put(array, axes))
    return given


def test_small_inputs_given_again_are_on_the_device_already(model, monkeypatch):
    before = model.call("prefill", **padded(prompts(4)), limit=[7])
    before = model.call("decode", state=before.state, limit=[7])
    given = counted(monkeypatch, model._executors[0].client)

    before = model.call("decode", state=before.state, limit=[7])
    again = len(given)
    model.call("decode", state=before.state, limit=[8])

    assert again == 0
    assert [array.tolist() for array in given] == [[8]]


def test_inputs_that_differ_in_anything_are_put_apart(executor):
    alike = (np.zeros(2, np.float32), np.zeros(2, np.int32), np.zeros((2, 1), np.float32), -np.zeros(2, np.float32))
    given = {str(place): array for place, array in enumerate(alike)}

    found = {name: executor.client.read(buffer) for name, buffer in executor.put(given).items()}

    assert all(found[name].dtype == array.dtype for name, array in given.items())
    assert all(found[name].shape == array.shape for name, array in given.items())
    assert all(found[name].tobytes() == array.tobytes() for name, array in given.items())


def test_an_array_that_its_owner_changes_afterwards_stays_as_it_was_given(executor):
    array = np.arange(4, dtype=np.int32)
    (buffer,) = executor.put({"x": array}).values()
    array[:] = 9

    (again,) = executor.put({"x": np.arange(4, dtype=np.int32)}).values()

    assert executor.client.read(buffer).tolist() == executor.client.read(again).tolist() == [0, 1, 2, 3]


def test_an_input_that_a_call_uses_up_is_put_each_time(executor, family):
    index = store.open(family("qwen2").bundle).index
    entry = next(e for e in entries.entries_of(index, entries.ONE_DEVICE) if e.phase == "decode")
    place, _ = entry.chain.calls[0]
    taken = dict(zip(entry.calls[0][1].takes, index.programs[place].arguments, strict=True))
    arguments = tuple(dataclasses.replace(a, donated=a is taken["input/stop"]) for a in index.programs[place].arguments)
    programs = list(index.programs)
    programs[place] = dataclasses.replace(programs[place], arguments=arguments)
    donating = dataclasses.replace(entry, index=dataclasses.replace(index, programs=tuple(programs)))
    prepared = _Prepared.of(donating, {})
    inputs = {"stop": np.zeros(1, bool), "limit": np.zeros(1, np.int32)}

    first, second = (executor._start(prepared, inputs, None, None) for _ in range(2))

    assert first["input/stop"] is not second["input/stop"]
    assert first["input/limit"] is second["input/limit"]


@pytest.mark.parametrize(
    "spelled",
    [
        np.asfortranarray,
        lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
        lambda array: array.astype(">i4"),
        lambda array: array.astype(np.uint64),
        lambda array: array.tolist(),
    ],
    ids=["by columns", "strided", "big-endian", "uint64", "list"],
)
def test_the_same_values_give_the_same_however_they_lie_in_memory(model, spelled):
    given = padded(prompts(5, 8, 3))
    plain = model.call("prefill", **{name: np.array(value, np.int32) for name, value in given.items()})

    found = model.call("prefill", **{name: spelled(np.array(value, np.int32)) for name, value in given.items()})

    assert found["token"].tolist() == plain["token"].tolist()
    assert found["logprob"].tobytes() == plain["logprob"].tobytes()


@pytest.mark.parametrize("compiling", [False, True], ids=["jaxlib", "jax"])
def test_a_large_array_may_lie_in_any_order(compiling):
    device = opening.open_client(entries.ONE_DEVICE, compiling=compiling)
    whole = np.arange(24 * 36, dtype=np.int32).reshape(24, 36)

    for array in (whole, whole.T, whole[::2, ::-3], np.asfortranarray(whole)):
        assert (device.read(device.put(array)) == array).all()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"lengths": np.array([2**40])}, "lengths has a value beyond int32"),
        ({"lengths": np.array([4.5])}, "lengths is float64, the program takes int32"),
        ({"lengths": np.array(["4"])}, "lengths is <U1, the program takes int32"),
    ],
)
def test_values_are_checked_in_shapes_that_were_good_before(model, bad, words):
    good = {name: np.asarray(value) for name, value in padded(prompts(4)).items()}
    model.call("prefill", **good)

    with pytest.raises(InputError, match=words):
        model.call("prefill", **good | bad)


def test_names_are_checked_for_shapes_that_were_good_before(model):
    good = padded(prompts(4))
    model.call("prefill", **good)

    with pytest.raises(InputError, match="missing or unknown: lengths"):
        model.call("prefill", tokens=good["tokens"])
    with pytest.raises(InputError, match="unknown input 'length'"):
        model.call("prefill", **good, length=[4])


def test_loading_to_compile_asks_of_each_program_once_whether_it_fits(tiny_bundle, monkeypatch):
    asked, fitting = Counter(), entries.fitting_executable

    def ask(program):
        if threading.current_thread() is threading.main_thread():  # others load ahead for models of earlier tests
            asked.update([program.digest])
        return fitting(program)

    monkeypatch.setattr(entries, "fitting_executable", ask)

    with aot.load(tiny_bundle, policy="compile") as model:
        first = Counter(program.digest for program, _ in next(iter(model._entries.values())).calls)

    assert asked - first == Counter(asked.keys())  # beside those of the first entry, which is looked at before


@pytest.mark.slow
def test_a_call_takes_at_most_100_microseconds_above_its_executable(tiny_bundle):
    with aot.load(tiny_bundle) as model:
        model.generate([5], max_new_tokens=2)
        found = dispatch.measure_dispatch(model, model.bundle.index.combos[0].key, lambda: None)
    print({name: f"{seconds * 1e6:.0f} µs" for name, seconds in found.items()})

    assert found["step"] < 50e-6
    assert found["call"] < 100e-6
