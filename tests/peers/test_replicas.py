"""A bundle of one device on several, each with its part of the rows."""

import itertools
import shutil
from pathlib import Path

import classifier
import numpy as np
import pytest
from commands import built
from hypothesis import given
from hypothesis import strategies as st

import aot as api
from aot.runtime import replicas

PROMPTS = ["def main", "import os", "class Foo", "x", "return"]
DRAWN = {"temperature": 0.8, "seed": [1, 2, 3, 4, 5], "n": 2}


@given(st.lists(st.integers(0, 4)).map(sorted).filter(bool), st.integers(1, 6))
def test_shares_keep_the_order_and_what_belongs_together(items, parts):
    made = replicas.split_evenly(items, parts, lambda item: item)

    assert list(itertools.chain(*made)) == items
    assert len(made) == min(parts, len(set(items)))
    assert sum(len(set(part)) for part in made) == len(set(items))
    assert max(len(set(part)) for part in made) - min(len(set(part)) for part in made) <= 1


@pytest.mark.parametrize("number", [1, 2, 3, 9])
def test_replicas_give_the_results_of_one_device_in_the_same_order(small_bundle, number):
    with api.load(small_bundle) as model:
        wanted = model.generate(PROMPTS, **DRAWN)

    with api.load(small_bundle, replicas=number) as model:
        found = model.generate(PROMPTS, **DRAWN)

    assert [(r.prompt, r.seed, r.token_ids) for r in found] == [(r.prompt, r.seed, r.token_ids) for r in wanted]


def test_replicas_share_the_pages_of_the_weights(small_bundle):
    with api.load(small_bundle, replicas=2) as model:
        first, second = ({slot: b.unsafe_buffer_pointer() for slot, b in e._weights.items()} for e in model._running)

    assert first == second


def test_a_fault_in_one_replica_is_raised(small_bundle, monkeypatch):
    with api.load(small_bundle, replicas=2) as model:
        monkeypatch.setattr(model._running[1], "run", lambda *_: 1 / 0)

        with pytest.raises(ZeroDivisionError):
            model.generate(PROMPTS)


@pytest.fixture(scope="module")
def classifier_bundle(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("classifier")
    shutil.copy(classifier.__file__, home)
    (home / "manifest.yaml").write_text(
        'name: classifier\nmodel: {factory: "classifier:make", arguments: {width: 32}}\n'
        "precompile: {batch_size: 4}\nplatforms: [cpu]\n"
    )
    return built(home / "manifest.yaml", home / "bundle")


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_calls_without_state_are_split_by_rows(classifier_bundle, rows):
    features = np.random.default_rng(rows).standard_normal((rows, classifier.FEATURES), np.float32)
    with api.load(classifier_bundle) as model:
        wanted = model.call("classify", features=features)

    with api.load(classifier_bundle, replicas=3) as model:
        used = []
        for position, executor in enumerate(model._running):
            run = executor.run
            executor.run = lambda *given, run=run, position=position: used.append(position) or run(*given)
        found = model.call("classify", features=features)

    assert sorted(used) == list(range(min(rows, 3)))
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5)


@pytest.mark.parametrize("features", [[[1.0], [1.0, 2.0]], np.zeros((0, 16)), np.zeros(16), "x"])
def test_wrong_inputs_are_refused_as_on_one_device(classifier_bundle, features):
    said = []
    for number in (None, 2):
        with api.load(classifier_bundle, replicas=number) as model, pytest.raises(api.InputError) as error:
            model.call("classify", features=features)
        said.append(str(error.value))

    assert said[0] == said[1]


@pytest.mark.parametrize("number", [0, -1, True, 1.5, "two", [1]])
def test_replicas_that_say_nothing_are_refused(small_bundle, number):
    with pytest.raises(api.InputError, match="load: replicas must be a number above 0 or 'all', got "):
        api.load(small_bundle, replicas=number)


def test_more_replicas_than_devices_are_refused(small_bundle):
    with pytest.raises(api.MachineError, match="load: 3 replicas need as many devices, given 2; give more, or fewer"):
        api.load(small_bundle, replicas=3, devices=2)


def test_all_replicas_are_as_many_as_the_devices_given(small_bundle):
    with api.load(small_bundle, replicas="all", devices=[2, 0, 1]) as model:
        ids = [next(iter(next(iter(executor._weights.values())).devices())).id for executor in model._running]

    assert ids == [2, 0, 1]
