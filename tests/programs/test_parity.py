"""Bundles of the four architectures against what transformers' own models in torch gave."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import reference
from oracles.records import Case
from serving import log_softmax, only, padded, prompts, shapes

import aot
from manifests import FAMILIES

STEPS = 20
THOROUGH = dict.fromkeys(("llama", "mistral"), pytest.mark.thorough)
"""Of which Qwen2 has all, its biases, its windows, and more."""
RAGGED = ("three of 8", "three of 16", "one of 9")


@dataclass(frozen=True)
class Served:
    model: Any
    oracle: Case


@pytest.fixture(scope="module", params=[pytest.param(n, marks=THOROUGH.get(n, ())) for n in FAMILIES])
def served(request, family):
    made = family(request.param)
    with aot.load(made.bundle) as model:
        yield Served(model, made.oracle)


def ids_of(rows):
    return [row.ids for row in rows]


def difference(ours, theirs):
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max()


def decoded(model, outputs, steps, **inputs):
    """Tokens [batch, steps] and logits [batch, steps, vocab] of cached decode steps after a call."""
    tokens, logits, state = [], [], outputs.state
    while sum(part.shape[1] for part in tokens) < steps:
        outputs = model.call("decode", state=state, **inputs)
        tokens.append(outputs["tokens"][:, : outputs["steps"]])
        logits.append(outputs["logits"][:, : outputs["steps"]])
        state = outputs.state
    return np.concatenate(tokens, 1)[:, :steps], np.concatenate(logits, 1)[:, :steps]


@pytest.mark.parametrize("group", RAGGED)
def test_prefill_logits_are_torchs_at_every_position_of_a_ragged_batch(served, group):
    rows = served.oracle.rows(group)

    outputs = served.model.call("prefill", **padded(ids_of(rows)))

    for row, logits, token in zip(rows, outputs["logits"], outputs["token"], strict=True):
        assert difference(logits[: len(row.ids)], row.logits[: len(row.ids)]) < 1e-4
        assert token == row.tokens[0]


@pytest.mark.parametrize("group", RAGGED)
def test_logits_of_cached_decode_steps_are_torchs_without_a_cache(served, group):
    rows = served.oracle.rows(group)
    outputs = served.model.call("prefill", **padded(ids_of(rows)))

    tokens, logits = decoded(served.model, outputs, STEPS)

    assert tokens.shape == (len(rows), STEPS)
    for row, later, ours in zip(rows, tokens, logits, strict=True):
        assert difference(ours, row.logits[len(row.ids) :]) < 1e-4
        assert later.tolist() == row.tokens[1:]


def test_greedy_tokens_are_torchs_through_every_bucket_that_holds_the_prompt(served):
    for row in served.oracle.rows("buckets"):
        holding = [shape for shape in shapes(served.model) if shape[1] >= len(row.ids)]

        for shape in holding:
            with only(served.model, shape):
                result = served.model.generate(row.ids, max_new_tokens=STEPS, eos_token_id=[])

            assert result.token_ids == row.tokens, shape
    assert holding == [(1, 16), (3, 16)]


def test_a_prefill_in_two_pieces_is_one_prefill(served):
    rows, cuts = prompts(16, 11, 9), (8, 2, 8)
    whole = served.model.call("prefill", **padded(rows))

    begun = served.model.call("prefill", **padded([row[:cut] for row, cut in zip(rows, cuts, strict=True)]))
    rest = [row[cut:] for row, cut in zip(rows, cuts, strict=True)]
    pieces = served.model.call("prefill", state=begun.state, **padded(rest))

    assert pieces["token"].tolist() == whole["token"].tolist()
    for i, (row, cut) in enumerate(zip(rows, cuts, strict=True)):
        assert difference(begun["logits"][i, :cut], whole["logits"][i, :cut]) < 1e-5
        assert difference(pieces["logits"][i, : len(row) - cut], whole["logits"][i, cut : len(row)]) < 1e-5
    (tokens, logits), (expected, whole_logits) = (decoded(served.model, made, STEPS) for made in (pieces, whole))
    assert tokens.tolist() == expected.tolist()
    assert difference(logits, whole_logits) < 1e-5


def test_a_piece_may_be_padded_beyond_what_is_left_of_the_cache(served):
    rows = served.oracle.rows("pieces")
    pieces = [[row.ids[start:end] for row in rows] for start, end in ((0, 16), (16, 32), (32, 40), (40, None))]

    state = None
    for piece in pieces:
        # a piece of 9 to 16 tokens goes to the bucket of 16, which from 40 on ends at 56, beyond the 48 slots
        wide = [[*row, *[0] * (16 - len(row))] for row in piece]
        outputs = served.model.call("prefill", tokens=wide, lengths=[len(row) for row in piece], state=state)
        state = outputs.state

    assert [len(row.logits) for row in rows] == [8, 1, 0]  # from 40 on
    for ours, row in zip(outputs["logits"][:2], rows, strict=False):
        assert difference(ours[: len(row.logits)], row.logits) < 1e-4
    assert [[token] for token in outputs["token"]] == [row.tokens for row in rows]


def test_a_row_that_a_later_piece_gives_nothing_goes_on_from_where_it_was(served):
    rows = served.oracle.rows("later")
    begun = served.model.call("prefill", **padded([rows[0].ids[:8], rows[1].ids]))

    pieces = served.model.call("prefill", state=begun.state, **padded([rows[0].ids[8:], []]))

    tokens, _ = decoded(served.model, pieces, 8)
    for i, row in enumerate(rows):
        assert [pieces["token"][i], *tokens[i]] == row.tokens


def test_a_full_cache_ends_a_row_rather_than_dropping_tokens(served):
    (row,) = served.oracle.rows("filling")
    outputs = served.model.call("prefill", **padded([row.ids]))

    tokens = outputs["token"].tolist()
    for _ in range(10):
        outputs = served.model.call("decode", state=outputs.state)
        tokens += outputs["tokens"][0, : outputs["steps"]].tolist()

    assert len(tokens) == 48 - 16 + 1  # the last one needs no slot
    assert tokens == row.tokens


def test_logprobs_of_generate_are_the_log_softmax_of_the_references_logits(served):
    rows = prompts(7, 3, 4)

    results = served.model.generate(rows, max_new_tokens=STEPS, temperature=1.5, repetition_penalty=1.7, seed=3)

    for row, result in zip(rows, results, strict=True):
        logits = reference.logits(served.oracle, [*row, *result.token_ids[:-1]])[len(row) - 1 :]
        chosen = log_softmax(logits)[np.arange(len(result.token_ids)), result.token_ids]
        np.testing.assert_allclose(result.logprobs, chosen, atol=1e-4)
