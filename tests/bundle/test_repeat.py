"""Calls that are made in turns: what an index may say of them, and what becomes of one that says something else."""

import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import aot
from aot.bundle import store
from aot.bundle.index import codec
from aot.bundle.index.records import ChainRecord, Index, RepeatRecord
from aot.errors import BundleError
from aot.runtime.device import switching


def changed(index: Index, **fields: Any) -> Index:
    """The index with a decode that repeats its calls otherwise."""
    return with_chains(index, lambda chain: replace(chain, repeat=replace(chain.repeat, **fields)))


def with_chains(index: Index, change: Any) -> Index:
    entries = tuple(
        replace(entry, chains=tuple(change(chain) if chain.repeat else chain for chain in entry.chains))
        for entry in index.entries
    )
    return replace(index, entries=entries)


def fault_of(index: Index) -> str:
    with pytest.raises(BundleError) as caught:
        codec.decode(codec.encode(index), "bundle b: index")
    return str(caught.value)


def repeated(index: Index) -> ChainRecord:
    return next(chain for entry in index.entries for chain in entry.chains if chain.repeat)


def test_a_decode_on_one_cpu_is_read_back_as_it_was_stored(small_bundle: Path) -> None:
    index = store.open(small_bundle).index
    chain = repeated(index)

    assert codec.decode(codec.encode(index), "x") == index
    assert chain.repeat == RepeatRecord(
        1, len(chain.calls), "value/more", index.generation.streaming_chunks, "output/steps", chain.repeat.stacked
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"begin": 5, "end": 5}, ".repeat: must be of calls, of which there are"),
        ({"end": 4000}, ".repeat: must be of calls, of which there are"),
        ({"begin": 0}, ".repeat: 'value/more' must hold a bool before"),
        ({"slot": "state/done"}, ".repeat: 'state/done' must hold a bool before"),
        ({"slot": "value/nothing"}, ".repeat: 'value/nothing' must hold a bool before"),
        ({"count": "output/tokens"}, ".repeat: 'output/tokens' must be an output without axes"),
        ({"count": "output/more"}, ".repeat: 'output/more' must be an output without axes"),
        ({"stacked": ("output/tokens",)}, "'output/logprobs' has 1 axes"),
        ({"stacked": ("output/tokens", "output/logprobs", "state/done")}, ".repeat: 'state/done' must be an output"),
        ({"most": 3}, ".repeat.most: must be generation.streaming_chunks"),
        ({"most": 1 << 17}, "must be 'int' <= 65536"),
    ],
)
def test_what_cannot_be_repeated_is_refused_at_its_place(small_bundle: Path, fields: dict[str, Any], said: str) -> None:
    assert said in fault_of(changed(store.open(small_bundle).index, **fields))


def shortened(index: Index, calls: int) -> Index:
    """The index with the last calls of each turn made once, after all turns."""
    return with_chains(index, lambda chain: replace(chain, repeat=replace(chain.repeat, end=len(chain.calls) - calls)))


def test_calls_behind_turns_take_nothing_that_only_a_turn_gives(small_bundle: Path) -> None:
    assert "takes 'value/x', which nothing gives before" in fault_of(shortened(store.open(small_bundle).index, 2))


def test_a_turn_that_uses_up_what_the_next_one_takes_is_refused(small_bundle: Path) -> None:
    index = store.open(small_bundle).index
    embed, _ = repeated(index).calls[1]
    arguments = tuple(replace(a, donated=a.name == "tokens") for a in index.programs[embed].arguments)
    programs = (
        *index.programs[:embed],
        replace(index.programs[embed], arguments=arguments),
        *index.programs[embed + 1 :],
    )

    fault = fault_of(shortened(replace(index, programs=programs), 1))

    assert ".repeat: a turn leaves something else in 'value/tokens', or nothing" in fault


def test_turns_are_told_of_from_format_3_on(small_bundle: Path, mesh_bundle: Path) -> None:
    index = store.open(small_bundle).index

    assert (index.format, store.open(mesh_bundle).index.format) == (3, 1)
    assert "chains: must not repeat calls before format 3" in fault_of(replace(index, format=2))


def test_a_call_in_which_every_row_has_ended_takes_no_turn_and_gives_pad(small_bundle: Path) -> None:
    with aot.load(small_bundle) as model:
        prefill = model.call("prefill", tokens=[[5, 6, 7]], lengths=[3])
        found = model.call("decode", state=prefill.state, stop=[True], pad=9)

    steps = model.bundle.index.generation.streaming_chunks
    assert found["steps"] == 0
    assert (found["tokens"].tolist(), found["logprobs"].tolist()) == ([[9] * steps], [[0.0] * steps])


def test_threads_give_way_more_often_only_while_someone_asks_for_it() -> None:
    before, inside = sys.getswitchinterval(), []

    def nested() -> None:
        with switching.often():
            inside.append(sys.getswitchinterval())

    with switching.often():
        thread = threading.Thread(target=nested)
        thread.start()
        thread.join()
        inside.append(sys.getswitchinterval())

    assert inside[0] == inside[1] < before
    assert sys.getswitchinterval() == before
