"""Bundles of the four architectures against transformers' own torch models."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from conftest import FAMILIES
from serving import log_softmax, only, padded, prompts, shapes, torch_greedy, torch_logits

import aot

STEPS = 20


@dataclass(frozen=True)
class Served:
    model: Any
    torch_model: Any


@pytest.fixture(scope="module", params=FAMILIES)
def served(request, family):
    made = family(request.param)
    with aot.load(made.bundle) as model:
        yield Served(model, made.torch_model)


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


@pytest.mark.parametrize("lengths", [(5, 1, 8), (16, 3, 10), (9,)])
def test_prefill_logits_are_torchs_at_every_position_of_a_ragged_batch(served, lengths):
    rows = prompts(*lengths)

    outputs = served.model.call("prefill", **padded(rows))

    for row, logits, token in zip(rows, outputs["logits"], outputs["token"], strict=True):
        expected = torch_logits(served.torch_model, row)
        assert difference(logits[: len(row)], expected) < 1e-4
        assert token == expected[-1].argmax()


@pytest.mark.parametrize("lengths", [(5, 1, 8), (16, 3, 10), (9,)])
def test_logits_of_cached_decode_steps_are_torchs_without_a_cache(served, lengths):
    rows = prompts(*lengths)
    outputs = served.model.call("prefill", **padded(rows))

    tokens, logits = decoded(served.model, outputs, STEPS)

    assert tokens.shape == (len(rows), STEPS)
    for row, first, later, ours in zip(rows, outputs["token"], tokens, logits, strict=True):
        expected = torch_logits(served.torch_model, [*row, first, *later[:-1]])[len(row) :]
        assert difference(ours, expected) < 1e-4
        assert later.tolist() == expected.argmax(-1).tolist()


def test_greedy_tokens_are_torchs_through_every_bucket_that_holds_the_prompt(served):
    for prompt in prompts(5, 8, 11):
        expected = torch_greedy(served.torch_model, prompt, STEPS)
        holding = [shape for shape in shapes(served.model) if shape[1] >= len(prompt)]

        for shape in holding:
            with only(served.model, shape):
                result = served.model.generate(prompt, max_new_tokens=STEPS, eos_token_id=[])

            assert result.token_ids == expected, shape
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
    rows = prompts(48, 41, 20)
    pieces = [[row[:16] for row in rows], [row[16:32] for row in rows], [row[32:40] for row in rows]]
    pieces.append([row[40:] for row in rows])

    state = None
    for piece in pieces:
        # a piece of 9 to 16 tokens goes to the bucket of 16, which from 40 on ends at 56, beyond the 48 slots
        wide = [[*row, *[0] * (16 - len(row))] for row in piece]
        outputs = served.model.call("prefill", tokens=wide, lengths=[len(row) for row in piece], state=state)
        state = outputs.state

    for i, expected in ((0, rows[0]), (1, rows[1])):
        theirs = torch_logits(served.torch_model, expected)[40:]
        assert difference(outputs["logits"][i, : len(theirs)], theirs) < 1e-4
    assert outputs["token"].tolist() == [torch_greedy(served.torch_model, row, 1)[0] for row in rows]


def test_a_row_that_a_later_piece_gives_nothing_goes_on_from_where_it_was(served):
    rows = prompts(13, 5)
    begun = served.model.call("prefill", **padded([rows[0][:8], rows[1]]))

    pieces = served.model.call("prefill", state=begun.state, **padded([rows[0][8:], []]))

    tokens, _ = decoded(served.model, pieces, 8)
    for i, row in enumerate(rows):
        assert [pieces["token"][i], *tokens[i]] == torch_greedy(served.torch_model, row, 9)


def test_a_full_cache_ends_a_row_rather_than_dropping_tokens(served):
    (row,) = prompts(16)
    outputs = served.model.call("prefill", **padded([row]))

    tokens = outputs["token"].tolist()
    for _ in range(10):
        outputs = served.model.call("decode", state=outputs.state)
        tokens += outputs["tokens"][0, : outputs["steps"]].tolist()

    assert len(tokens) == 48 - 16 + 1  # the last one needs no slot
    assert tokens == torch_greedy(served.torch_model, row, len(tokens))


def test_logprobs_of_generate_are_the_log_softmax_of_torchs_logits(served):
    rows = prompts(7, 3, 4)

    results = served.model.generate(rows, max_new_tokens=STEPS, temperature=1.5, repetition_penalty=1.7, seed=3)

    for row, result in zip(rows, results, strict=True):
        logits = torch_logits(served.torch_model, [*row, *result.token_ids[:-1]])[len(row) - 1 :]
        chosen = log_softmax(logits)[np.arange(len(result.token_ids)), result.token_ids]
        np.testing.assert_allclose(result.logprobs, chosen, atol=1e-4)
