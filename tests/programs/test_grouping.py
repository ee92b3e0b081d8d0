"""A request's rows on a table of shapes: (1, 64) beside (4, 32), chunks of 3, room for three ends."""

import pytest
from commands import built
from serving import prompts, recorded

import aot
from aot.errors import InputError, NoEntryError

MANIFEST = """\
name: table
model: {checkpoint: %s, dtype: float32}
precompile: {expand: zip, batch_size: [1, 4], prefill_length: [64, 32]}
generation: {max_new_tokens: 20, streaming_chunks: 3, eos_token_id: [317, 318, 319]}
platforms: [cpu]
"""
DRAWN = {"temperature": 1.0, "top_k": 100, "presence_penalty": 0.1, "seed": 9}
LONG, WIDE = (1, 64), (4, 32)


@pytest.fixture(scope="module")
def table(family, tmp_path_factory):
    home = tmp_path_factory.mktemp("table")
    (home / "manifest.yaml").write_text(MANIFEST % family("qwen2").checkpoint)
    with aot.load(built(home / "manifest.yaml", home / "bundle")) as model:
        yield model


def tokens(results):
    return [result.token_ids for result in results]


def prefills(ran):
    return sorted((run.shape, run.prompts) for run in ran if run.phase == "prefill")


def test_four_rows_of_60_tokens_go_in_four_calls(table):
    rows = prompts(60, 60, 60, 60)

    with recorded(table) as ran:
        results = table.generate(rows, **DRAWN)

    assert prefills(ran) == [(LONG, 1)] * 4
    assert {run.shape for run in ran} == {LONG}
    assert tokens(results) == [table.generate(row, **DRAWN).token_ids for row in rows]


def test_mixed_lengths_go_in_the_fewest_groups_and_come_back_in_request_order(table):
    rows = prompts(10, 60, 20, 30, 64, 5)
    alone = [table.generate(row, **DRAWN) for row in rows]

    with recorded(table) as ran:
        results = table.generate(rows, **DRAWN)

    assert prefills(ran) == [(LONG, 1), (LONG, 1), (WIDE, 4)]
    assert tokens(results) == tokens(alone)
    assert [result.prompt_tokens for result in results] == [10, 60, 20, 30, 64, 5]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (([70], 20), r"70 tokens exceed the largest prefill bucket, 64;"),
        (([30], 55), r"85 tokens \(30 of the prompt, 55 to generate\) exceed the largest max_length, 84;"),
    ],
)
def test_a_row_that_fits_nothing_is_refused_with_the_nearest_entry_before_anything_runs(table, request_, words):
    lengths, budget = request_

    with recorded(table) as ran, pytest.raises(NoEntryError, match=words) as caught:
        table.generate([*prompts(5), *prompts(*lengths)], max_new_tokens=budget)

    assert "(the nearest entry has batch_size 1, prefill_length 64, max_length 84)" in str(caught.value)
    assert ran == []


def test_sequences_of_a_prompt_that_fits_one_row_a_call_share_its_prefill(table):
    (prompt,) = prompts(60)

    with recorded(table) as ran:
        results = table.generate(prompt, n=3, **DRAWN)

    assert prefills(ran) == [(LONG, 1)]
    assert results[0].token_ids == table.generate(prompt, **DRAWN).token_ids
    assert len({tuple(result.token_ids) for result in results}) == 3


def test_a_seed_gives_the_same_tokens_in_chunks_of_any_size(table, family):
    rows = prompts(6, 3, 8)

    with aot.load(family("qwen2").bundle) as other:
        expected = other.generate(rows, max_new_tokens=20, eos_token_id=[], **DRAWN)

    results = table.generate(rows, max_new_tokens=20, eos_token_id=[], **DRAWN)
    assert tokens(results) == tokens(expected)
    for theirs, ours in zip(expected, results, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


def test_any_of_several_ends_ends_a_row(table):
    rows = prompts(6, 3, 8)
    free = table.generate(rows, eos_token_id=-1, **DRAWN)
    ends = [result.token_ids[place] for result, place in zip(free, (2, 5, 9), strict=True)]

    results = table.generate(rows, eos_token_id=ends, **DRAWN)

    for result, whole in zip(results, free, strict=True):
        first = min(whole.token_ids.index(end) for end in ends if end in whole.token_ids)
        assert (result.token_ids, result.finish_reason) == (whole.token_ids[: first + 1], "eos")


def test_more_ends_than_the_programs_have_room_for_are_refused(table):
    with pytest.raises(InputError, match="4 eos_token_id, this bundle has room for 3"):
        table.generate(prompts(4), eos_token_id=[1, 2, 3, 4])


def test_a_bundle_that_shows_no_logits_gives_none(table):
    outputs = table.call("prefill", tokens=prompts(4), lengths=[4])

    assert sorted(outputs) == ["logprob", "token"]
    assert sorted(table.call("decode", state=outputs.state)) == ["logprobs", "steps", "tokens"]
