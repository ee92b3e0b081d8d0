"""What a call of generate means: budgets, ends, sequences of a prompt, and what is drawn, through a real bundle."""

import numpy as np
import oracle
import pytest
import reference
from oracle import Row
from serving import log_softmax, only, padded, prompts, recorded, shapes

import aot
from aot.errors import NoEntryError
from aot.runtime.options import RequestOptions

CHUNK, CAPACITY = 4, 48
DRAWN = {"temperature": 1.0, "top_k": 60, "top_p": 0.95, "min_p": 0.01, "seed": 5}
PENALTIES = {"repetition_penalty": 1.3, "presence_penalty": 0.2, "frequency_penalty": 0.1}


@pytest.fixture(scope="module")
def model(family):
    with aot.load(family("qwen2").bundle) as model:
        yield model


@pytest.fixture(scope="module")
def case(family):
    return family("qwen2").oracle


def tokens(results):
    return [result.token_ids for result in results]


@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + 2, 2 * CHUNK + 1])
def test_exactly_the_budget_is_generated(model, count):
    rows = prompts(5, 3, 8)
    longest = model.generate(rows, max_new_tokens=CAPACITY - 8, eos_token_id=[], **DRAWN)

    results = model.generate(rows, max_new_tokens=count, eos_token_id=[], **DRAWN)

    assert tokens(results) == [result.token_ids[:count] for result in longest]
    assert all(len(result.logprobs) == count and result.finish_reason == "length" for result in results)


def test_the_first_token_comes_from_prefill_and_each_chunk_gives_as_many_as_it_has_steps(model):
    with recorded(model) as ran:
        model.generate(prompts(5), max_new_tokens=1 + 2 * CHUNK, eos_token_id=[])

    assert [run.phase for run in ran] == ["prefill", "decode", "decode"]


@pytest.mark.parametrize(("length", "budget"), [(16, CAPACITY - 16), (3, CAPACITY - 3)])
def test_a_row_fills_its_cache_by_its_true_length_and_not_by_its_bucket(model, length, budget):
    (prompt,) = prompts(length)
    result = model.generate(prompt, max_new_tokens=budget, eos_token_id=[])

    assert len(result.token_ids) == budget
    with recorded(model) as ran, pytest.raises(NoEntryError, match=rf"{CAPACITY + 1} tokens .* max_length, {CAPACITY}"):
        model.generate([[2], prompt], max_new_tokens=budget + 1)
    assert ran == []


def test_a_stream_that_fits_nothing_is_refused_when_it_is_asked_for(model):
    with pytest.raises(NoEntryError, match="17 tokens exceed the largest prefill bucket, 16"):
        model.start(prompts(17), RequestOptions())


def test_rows_end_for_their_own_reasons_and_leave_the_others_as_they_are(model):
    rows = prompts(5, 3, 8)
    free = model.generate(rows, max_new_tokens=20, eos_token_id=[], **DRAWN)
    (end,) = sorted(set(free[1].token_ids[3:9]) - set(free[0].token_ids) - set(free[2].token_ids))[:1]

    results = model.generate(rows, max_new_tokens=20, eos_token_id=[end], **DRAWN)

    assert [result.finish_reason for result in results] == ["length", "eos", "length"]
    assert results[1].token_ids == free[1].token_ids[: free[1].token_ids.index(end) + 1]
    assert len(results[1].logprobs) == len(results[1].token_ids)
    assert [results[0], results[2]] == [free[0], free[2]]


def test_an_end_as_the_first_token_needs_no_chunk(model):
    (prompt,) = prompts(5)
    first = model.generate(prompt, max_new_tokens=1).token_ids

    with recorded(model) as ran:
        result = model.generate(prompt, max_new_tokens=20, eos_token_id=first[0])

    assert (result.token_ids, result.finish_reason) == (first, "eos")
    assert [run.phase for run in ran] == ["prefill"]


def test_a_chunk_ends_early_when_all_rows_are_done(model):
    rows = prompts(5, 3, 8)
    outputs = model.call("prefill", **padded(rows), limit=[3, 1, 2])

    decode = model.call("decode", state=outputs.state, limit=[3, 1, 2])

    assert decode["steps"] == 2
    generated = [[first, *later] for first, later in zip(outputs["token"], decode["tokens"].tolist(), strict=True)]
    assert [row.count(0) for row in generated] == [2, 4, 3]  # the pad id stands where a row has ended


def test_the_bundles_own_eos_holds_unless_a_request_names_others(model, case):
    (prompt,) = prompts(5)
    assert case.config["eos_token_id"] == 319
    wanted = {"temperature": 50.0, "max_new_tokens": 40, "seed": 0}  # near uniform: some seed soon draws 319
    drawn = [model.generate(prompt, **(wanted | {"seed": seed})) for seed in range(60)]
    ended = [result for result in drawn if result.finish_reason == "eos"]

    assert ended
    for result in ended:
        assert result.token_ids.index(319) == len(result.token_ids) - 1
    for never in ([], -1, [-1]):
        seed = ended[0].seed
        result = model.generate(prompt, **(wanted | {"seed": seed}), eos_token_id=never)
        assert result.finish_reason == "length"
        assert result.token_ids[: len(ended[0].token_ids)] == ended[0].token_ids


@pytest.mark.parametrize("options", [{}, DRAWN, PENALTIES, {**DRAWN, **PENALTIES}])
def test_generate_draws_what_the_oracle_draws_from_the_references_logits(model, case, options):
    rows = prompts(6, 3, 8)  # shorter ones are padded with 0, which no penalty may count
    results = model.generate(rows, max_new_tokens=16, eos_token_id=[], n=2, **options)

    pairs = enumerate(results)
    settled = sum(_agreeing(case, rows[i // 2], result, i % 2, options) for i, result in pairs)
    assert settled > 0.9 * sum(len(result.token_ids) for result in results)


def _agreeing(case, prompt, result, sequence, options):
    """Checks each token and gives how many were no near tie, which float32 may rightly decide otherwise."""
    named = {name: value for name, value in options.items() if name != "seed"}
    row = Row(**named, seed=divmod(result.seed, 1 << 32), sequence=sequence)
    logits = reference.logits(case, [*prompt, *result.token_ids])[len(prompt) - 1 :]
    prompted = np.zeros(logits.shape[1], bool)
    prompted[prompt] = True
    settled = 0
    for place, token in enumerate(result.token_ids):
        counts = np.bincount(result.token_ids[:place], minlength=logits.shape[1])
        expected, logprob, margin = oracle.sample(logits[place], prompted, counts, place, row)
        if margin < 1e-4:
            continue
        assert (token, result.logprobs[place]) == (expected, pytest.approx(logprob, abs=1e-4)), place
        settled += 1
    return settled


def test_a_pad_is_no_token_to_the_repetition_penalty(model, case):
    def favours_the_pad(prompt):
        logits = reference.logits(case, prompt)[-1]
        return logits[0] > max(0, *logits[prompt])

    # a penalty below 1 draws towards what was seen: here the pad would be next, were padding part of the prompt
    short = next(prompt for prompt in (prompts(3, seed=seed)[0] for seed in range(300)) if favours_the_pad(prompt))
    logits = reference.logits(case, short)[-1]
    seen = np.isin(np.arange(320), short)
    wanted = int(np.where(seen, np.where(logits > 0, logits * 1000, logits / 1000), logits).argmax())

    result, _ = model.generate([short, *prompts(8)], repetition_penalty=1e-3, max_new_tokens=1)

    assert wanted != 0
    assert result.token_ids == [wanted]
    assert result.logprobs == [pytest.approx(log_softmax(logits)[wanted], abs=1e-4)]


def test_truncation_keeps_the_last_tokens_and_only_on_request(model):
    (prompt,) = prompts(30)

    result = model.generate(prompt, max_new_tokens=5, truncate=True, **DRAWN)
    whole = model.generate(prompt[-16:], max_new_tokens=5, **DRAWN)

    assert (result.prompt_tokens, result.token_ids) == (16, whole.token_ids)
    tight = model.generate(prompt, max_new_tokens=40, eos_token_id=[], truncate=True, **DRAWN)
    assert (tight.prompt_tokens, len(tight.token_ids)) == (8, 40)  # room for the budget goes first
    with pytest.raises(NoEntryError, match="30 tokens exceed the largest prefill bucket, 16"):
        model.generate(prompt, max_new_tokens=5)


def test_entry_names_the_key_that_served(model):
    keys = {(combo.batch_size, combo.prefill_length): entry.combo_key for (combo, _), entry in model._entries.items()}

    for shape in shapes(model):
        with only(model, shape):
            assert model.generate(prompts(4), max_new_tokens=1)[0].entry == keys[shape]
