"""What a sequence draws depends on its seed and its place among its prompt's sequences, and nothing around it."""

import threading

import numpy as np
import pytest
from serving import only, prompts, recorded, shapes

import aot

DRAWN = {"temperature": 1.0, "top_k": 100, "top_p": 0.98, "frequency_penalty": 0.1, "max_new_tokens": 14}
DRAWN |= {"eos_token_id": []}


@pytest.fixture(scope="module")
def model(family):
    with aot.load(family("qwen2").bundle) as model:
        yield model


def tokens(results):
    return [result.token_ids for result in results]


def test_a_seed_gives_the_same_tokens_in_any_bucket(model):
    (prompt,) = prompts(6)
    through = []
    for shape in shapes(model):
        with only(model, shape):
            through += tokens(model.generate([prompt], seed=11, **DRAWN))

    assert through == through[:1] * 4


def test_a_seed_gives_the_same_tokens_anywhere_in_a_batch_beside_anything(model):
    rows, seeds = prompts(6, 3, 8), [11, 12, 2**64 - 1]
    alone = [model.generate(row, seed=seed, **DRAWN).token_ids for row, seed in zip(rows, seeds, strict=True)]

    assert tokens(model.generate(rows, seed=seeds, **DRAWN)) == alone
    assert tokens(model.generate(rows[::-1], seed=seeds[::-1], **DRAWN)) == alone[::-1]
    assert tokens(model.generate([rows[2], rows[0]], seed=[seeds[2], seeds[0]], **DRAWN)) == [alone[2], alone[0]]
    assert len({tuple(row) for row in alone}) == 3


def test_one_seed_serves_every_prompt_alike_and_a_list_gives_one_to_each(model):
    (prompt,) = prompts(6)

    alike = model.generate([prompt, prompt], seed=7, **DRAWN)
    listed = model.generate([prompt, prompt], seed=[7, 8], **DRAWN)
    numpy = model.generate([prompt, prompt], seed=np.array([7, 8]), **DRAWN)

    assert alike[0].token_ids == alike[1].token_ids == listed[0].token_ids
    assert listed[1].token_ids != listed[0].token_ids
    assert [result.seed for result in listed] == [7, 8]
    assert tokens(numpy) == tokens(listed)


@pytest.mark.parametrize("seed", [1 << 32, (1 << 63) + 5])
def test_both_words_of_a_seed_matter(model, seed):
    (prompt,) = prompts(6)

    drawn = [model.generate(prompt, seed=s, **DRAWN).token_ids for s in (seed, seed + 1, seed % (1 << 32))]

    assert len({tuple(row) for row in drawn}) == 3


def test_an_omitted_seed_is_drawn_for_each_prompt_and_reproduces(model):
    (prompt,) = prompts(6)

    first, second = model.generate([prompt, prompt], **DRAWN)

    assert first.seed != second.seed
    assert first.token_ids != second.token_ids
    again = model.generate([prompt, prompt], seed=[first.seed, second.seed], **DRAWN)
    assert again == [first, second]


def test_the_sequences_of_a_prompt_differ_and_are_the_same_however_many_are_asked_for(model):
    (prompt,) = prompts(6)
    seven = tokens(model.generate(prompt, n=7, seed=9, **DRAWN))

    assert len({tuple(row) for row in seven}) == 7
    for n in (2, 3, 4, 5):
        assert tokens(model.generate(prompt, n=n, seed=9, **DRAWN)) == seven[:n]
    assert model.generate(prompt, n=1, seed=9, **DRAWN).token_ids == seven[0]


def test_greedy_sequences_of_a_prompt_are_all_alike(model):
    (prompt,) = prompts(6)

    several = model.generate(prompt, n=3, max_new_tokens=6)

    assert tokens(several) == [model.generate(prompt, max_new_tokens=6).token_ids] * 3


def test_sequences_of_a_prompt_stand_side_by_side(model):
    rows = prompts(6, 3, 8)

    results = model.generate(rows, n=2, seed=9, **DRAWN)

    assert [result.prompt for result in results] == [rows[0], rows[0], rows[1], rows[1], rows[2], rows[2]]
    for row, pair in zip(rows, (results[:2], results[2:4], results[4:]), strict=True):
        assert tokens(pair) == tokens(model.generate(row, n=2, seed=9, **DRAWN))


@pytest.mark.parametrize(
    ("lengths", "n"),
    [
        ((6,), 2),
        ((6,), 3),
        ((6,), 4),
        ((6,), 7),
        ((6, 4), 2),
        ((12, 3), 2),
        ((3, 8, 5), 2),
        ((12, 3, 9, 4), 3),
        ((2,) * 5, 5),
    ],
)
def test_each_prompt_is_prefilled_once_whatever_groups_its_sequences_go_to(model, lengths, n):
    rows = prompts(*lengths)
    expected = [tokens(model.generate(row, n=n, seed=9, **DRAWN)) for row in rows]

    with recorded(model) as ran:
        results = model.generate(rows, n=n, seed=9, **DRAWN)

    assert sum(run.prompts for run in ran if run.phase == "prefill") == len(rows)
    assert tokens(results) == [row for several in expected for row in several]


@pytest.mark.parametrize("shape", [(1, 8), (3, 16)])
def test_a_bundle_of_one_shape_serves_several_sequences_too(model, shape):
    (prompt,) = prompts(6)
    expected = tokens(model.generate(prompt, n=4, seed=9, **DRAWN))

    with only(model, shape), recorded(model) as ran:
        results = model.generate(prompt, n=4, seed=9, **DRAWN)

    assert tokens(results) == expected
    assert [run.phase for run in ran].count("prefill") == 1


def test_rows_without_a_shared_prompt_need_no_fork(model):
    with recorded(model) as ran:
        model.generate(prompts(6, 3, 8), n=1, **DRAWN)

    assert {run.phase for run in ran} == {"prefill", "decode"}
    assert [run.shape for run in ran if run.phase == "prefill"] == [(3, 8)]


def test_threads_that_call_at_once_get_what_each_gets_alone(family):
    rows = prompts(6, 3, 8, 12, 16, 2)
    with aot.load(family("qwen2").bundle) as model:  # fresh, so that the threads also race to load the programs
        got = {}

        def call(i):
            got[i] = model.generate([rows[i], rows[i - 1]], n=2, seed=i, **DRAWN)

        threads = [threading.Thread(target=call, args=(i,)) for i in range(len(rows))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        for i in range(len(rows)):
            assert got[i] == model.generate([rows[i], rows[i - 1]], n=2, seed=i, **DRAWN)
