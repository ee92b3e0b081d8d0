import functools
import re
from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import export
from oracle import Row

from aot.programs import drawing

# small cases are padded to one shape: they share one compilation
ROWS, VOCAB = 64, 16
EVERYTHING = Row(
    temperature=0.7,
    top_k=9,
    top_p=0.9,
    min_p=0.01,
    repetition_penalty=2.0,
    presence_penalty=0.5,
    frequency_penalty=0.25,
    seed=(7, 8),
    sequence=3,
)
sample = jax.jit(drawing.sample_tokens)


@pytest.fixture(scope="module", autouse=True)
def _strict() -> Iterator[None]:
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def options(rows):
    return {
        name: jnp.asarray(np.array([getattr(row, name) for row in rows], dtype).reshape(len(rows), *shape))
        for name, (shape, dtype) in drawing.OPTIONS.items()
    }


def run(rows, logits, prompted=False, counts=0, generated=0):
    """Tokens and logprobs of a batch; one row of logits stands for all."""
    vocab, batch = np.shape(logits)[-1], len(rows)
    missing = (ROWS - batch, VOCAB - vocab) if vocab <= VOCAB else (0, 0)
    arrays = []
    for values, dtype, fill in ((logits, np.float32, -np.inf), (prompted, bool, False), (counts, np.int32, 0)):
        full = np.broadcast_to(np.asarray(values, dtype), (batch, vocab))
        arrays.append(jnp.asarray(np.pad(full, ((0, missing[0]), (0, missing[1])), constant_values=fill)))
    index = np.pad(np.broadcast_to(generated, (batch,)), (0, missing[0])).astype(np.int32)
    token, logprob = sample(*arrays, jnp.asarray(index), options([*rows, *[Row()] * missing[0]]))
    assert (token.dtype, logprob.dtype) == (jnp.int32, jnp.float32)
    return np.asarray(token)[:batch], np.asarray(logprob)[:batch]


def drawn(row, logits):
    """The set of tokens that many draws from one row of logits come to."""
    tokens, _ = run([row] * ROWS, logits, generated=np.arange(ROWS))
    return set(tokens.tolist())


REQUESTS = st.builds(
    Row,
    temperature=st.sampled_from([0.0, 0.25, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 2, 5, VOCAB - 1, VOCAB, VOCAB + 1, 2**31 - 1]),
    top_p=st.one_of(st.just(1.0), st.floats(1e-3, 1.0)),
    min_p=st.one_of(st.just(0.0), st.floats(0.0, 1.0), st.just(1.0)),
    # powers of two, so that every penalised logit is exact in float32 and ties are ties
    repetition_penalty=st.sampled_from([0.5, 1.0, 2.0]),
    presence_penalty=st.sampled_from([-1.0, 0.0, 0.5]),
    frequency_penalty=st.sampled_from([-0.5, 0.0, 0.25]),
    seed=st.sampled_from([(0, 0), (1, 2**32 - 1)]),
    sequence=st.sampled_from([0, 5]),
)
LOGITS = st.lists(st.sampled_from([-4.0, -1.0, -0.0, 0.0, 0.5, 1.0, 1.5, 3.0]), min_size=VOCAB, max_size=VOCAB)


@settings(max_examples=150, deadline=None)
@given(row=REQUESTS, logits=LOGITS, data=st.data())
def test_draws_agree_with_the_oracle(row, logits, data):
    prompted = data.draw(st.lists(st.booleans(), min_size=VOCAB, max_size=VOCAB))
    counts = data.draw(st.lists(st.integers(0, 3), min_size=VOCAB, max_size=VOCAB))
    if row.temperature > 0:
        _, margin = oracle.kept(oracle.penalised(logits, prompted, counts, row), row)
        assume(margin > 1e-6)
    tokens, logprobs = run([row] * ROWS, logits, prompted, counts, np.arange(ROWS))

    for index in range(ROWS):
        token, logprob, margin = oracle.sample(logits, prompted, counts, index, row)
        if margin > 1e-5:
            assert tokens[index] == token
            np.testing.assert_allclose(logprobs[index], logprob, atol=1e-5)


@pytest.mark.parametrize("row", [Row(), EVERYTHING, Row(temperature=3.0, top_k=2)])
def test_suppressed_tokens_are_as_if_they_were_not_there_but_for_the_logprob(row):
    ids, logits = (1, 3, 15), np.float32([0.5, 3.0, -1.0, 3.0, *[0.25] * 12])
    left = np.where(np.isin(np.arange(VOCAB), ids), -np.inf, logits)
    suppressing = jax.jit(functools.partial(drawing.sample_tokens, suppressed=ids))
    full = np.broadcast_to(logits, (ROWS, VOCAB))
    nothing = np.zeros_like(full, bool), np.zeros_like(full, np.int32), np.arange(ROWS, dtype=np.int32)
    token, logprob = suppressing(full, *nothing, options([row] * ROWS))
    expected, _ = run([row] * ROWS, left, generated=np.arange(ROWS))

    assert token.tolist() == expected.tolist()
    assert not {*token.tolist()} & {*ids}
    raw = np.float64(logits)
    np.testing.assert_allclose(logprob, raw[np.asarray(token)] - np.log(np.exp(raw).sum()), atol=1e-5)


def test_many_suppressed_tokens_of_a_large_vocabulary_are_a_small_constant():
    ids = tuple(range(3, 150_000, 2))

    def mask():
        return drawing._among(ids, 151_937)

    module = export.export(jax.jit(mask))().mlir_module()

    assert np.flatnonzero(np.asarray(mask())).tolist() == list(ids)
    assert max(len(digits) // 2 for digits in re.findall(r'dense<"0x([0-9A-F]+)"', module)) < 20_000


def test_no_value_recompiles():
    run([Row()], [0.0, 1.0])
    before = sample._cache_size()
    run([EVERYTHING], [0.0, -np.inf], [True, False], [1, 2], 9)

    assert sample._cache_size() == before


@pytest.mark.parametrize(
    ("logits", "top_p", "expected"),
    [
        ([1.0] * 4, 0.5, {0, 1}),
        ([1.0] * 4, 0.25, {0}),
        ([1.0] * 4, 0.5000001, {0, 1, 2}),
        ([0.0, 2.0, 0.0, 2.0, 2.0, 2.0], 0.25, {1, 3}),
        ([0.0] * 8, 0.875, {0, 1, 2, 3, 4, 5, 6}),
        ([-np.inf] * 4 + [5.0] * 4, 0.5, {4, 5}),
        (np.log([1, 4, 2, 1]), 0.4, {1}),
        (np.log([1, 4, 2, 1]), 0.51, {1, 2}),
        (np.log([1, 4, 2, 1]), 0.76, {0, 1, 2}),
        (np.log([1, 4, 2, 1]), 0.88, {0, 1, 2, 3}),
        ([0.0, 0.0], 1e-30, {0}),
        ([1.0, 3.0, 3.0], 0.0, {1}),
    ],
)
def test_top_p_keeps_the_fewest_that_reach_it_lowest_ids_first(logits, top_p, expected):
    assert drawn(Row(temperature=1.0, top_p=top_p), logits) == expected


def test_top_p_cuts_a_large_flat_vocabulary_in_exact_halves():
    half = 10_000
    tokens = drawn(Row(temperature=1.0, top_p=0.5), np.zeros(2 * half))
    alone = [oracle.noise(Row(), index, 2 * half)[:half].argmax() for index in range(ROWS)]

    assert tokens == set(alone)


def test_top_p_counts_the_mass_of_a_long_thin_tail():
    vocab, row = 20_000, Row(temperature=1.0, top_p=0.9)
    logits = np.full(vocab, np.log(1e-5))
    logits[vocab // 2] = 0.0
    tokens, _ = run([row] * ROWS, logits, generated=np.arange(ROWS))
    kept, _ = oracle.kept(logits, row)
    left = np.full(vocab, -np.inf)
    left[kept] = logits[kept]

    assert len(set(tokens.tolist())) > 1
    assert tokens.tolist() == [int(np.argmax(left + oracle.noise(row, index, vocab))) for index in range(ROWS)]


def test_top_p_counts_mass_over_what_top_k_leaves():
    row = Row(temperature=1.0, top_k=2, top_p=0.5)

    assert drawn(row, [0.0] * 8) == {0}
    assert drawn(replace(row, top_p=0.51), [0.0] * 8) == {0, 1}


@pytest.mark.parametrize(("top_k", "expected"), [(1, {1}), (3, {1, 3, 0}), (4, {0, 1, 2, 3}), (0, {0, 1, 2, 3, 4})])
def test_top_k_keeps_exactly_k_lowest_ids_first_and_both_zeros_are_equal(top_k, expected):
    assert drawn(Row(temperature=5.0, top_k=top_k), [-0.0, 2.0, 0.0, 2.0, -0.0]) == expected


def test_top_k_ranks_logits_that_the_temperature_rounds_together():
    above = np.nextafter(np.float32(1), np.float32(2))

    assert drawn(Row(temperature=1e6, top_k=1), [1.0, above, 50.0 - 50.0]) == {1}


def test_top_k_of_one_is_argmax_with_the_lowest_id():
    rng = np.random.default_rng(0)
    logits = rng.integers(-3, 4, (ROWS, VOCAB)).astype(np.float32) * 0.5
    tokens, _ = run([Row(temperature=10.0, top_k=1, seed=(0, i)) for i in range(ROWS)], logits)

    np.testing.assert_array_equal(tokens, logits.argmax(axis=1))


def test_min_p_keeps_what_equals_it():
    assert drawn(Row(temperature=1.0, min_p=1.0), [3.0, 1.0, 3.0]) == {0, 2}
    assert drawn(Row(temperature=1.0, min_p=0.3), np.log([1.0, 0.31, 0.29])) == {0, 1}


def test_temperature_zero_is_argmax_of_the_penalised_logits_lowest_id_first():
    row = Row(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    # 4/2-1/2-2/4 = 1 | 2/2 = 1 | 1 | -1 × 2
    tokens, _ = run([row, Row()], [4.0, 2.0, 1.0, -1.0], [True, True, False, True], [2, 0, 0, 0])

    assert tokens.tolist() == [0, 0]
    assert run([replace(row, presence_penalty=0.75)], [4.0, 2.0, 1.0], [1, 1, 0], [2, 0, 0])[0].tolist() == [1]
    assert run([Row()], [-0.0, 0.0])[0].tolist() == [0]


def test_presence_and_frequency_count_generated_tokens_only():
    row = Row(presence_penalty=2.0, frequency_penalty=2.0)

    assert run([row], [1.0, 0.0], prompted=[True, False])[0].tolist() == [0]
    assert run([row], [1.0, 0.0], counts=[1, 0])[0].tolist() == [1]


@pytest.mark.parametrize("temperature", [1e-50, 1e-40, 1e-37, 1e-6])
def test_a_temperature_near_zero_is_argmax(temperature):
    row = Row(temperature=temperature, top_k=3, top_p=0.9)

    assert drawn(row, [-3e38, 9999.0, 1e4, 3.0]) == {2}


def test_a_logit_of_minus_infinity_is_never_drawn():
    logits = np.full(VOCAB, -np.inf)
    logits[9] = -1e30
    hot = Row(temperature=1e30, repetition_penalty=3.0, frequency_penalty=-5.0)

    assert drawn(hot, logits) == {9}
    assert drawn(replace(hot, top_k=50, top_p=0.999999, min_p=0.1), logits) == {9}


def test_logprob_is_of_the_raw_logits():
    logits = np.array([0.5, -2.0, 3.0, -np.inf])
    raw = logits - np.log(np.exp(logits).sum())
    tokens, logprobs = run([replace(EVERYTHING, temperature=5.0)] * 64, logits, [True] * 4, [3, 0, 1, 0], np.arange(64))

    assert len(set(tokens.tolist())) > 1
    np.testing.assert_allclose(logprobs, raw[tokens], atol=1e-6)


def neighbours(row):
    return [row, Row(), replace(EVERYTHING, seed=(1, 1)), Row(temperature=1.0), Row(repetition_penalty=3.0)]


@pytest.mark.parametrize(
    "row",
    [
        Row(),
        Row(temperature=1.0, seed=(3, 4)),
        Row(temperature=1.0, top_k=30),
        Row(temperature=0.8, top_p=0.7, sequence=2),
        Row(temperature=2.0, min_p=0.2),
        Row(frequency_penalty=0.3),
        EVERYTHING,
    ],
)
def test_the_rest_of_the_batch_never_matters(row):
    rng = np.random.default_rng(1)
    logits = np.round(rng.normal(size=(5, 301)), 1).astype(np.float32)
    prompted, counts = rng.random((5, 301)) < 0.2, rng.integers(0, 3, (5, 301))
    last = [4, 1, 2, 3, 0]
    swapped = [neighbours(row)[i] for i in last]

    for draw in range(16):
        generated = np.arange(draw, draw + 5)
        alone, alone_logprob = run([row], logits[:1], prompted[:1], counts[:1], generated[:1])
        same, same_logprob = run([row] * 5, logits, prompted, counts, generated)
        among, among_logprob = run(neighbours(row), logits, prompted, counts, generated)
        moved, moved_logprob = run(swapped, logits[last], prompted[last], counts[last], generated[last])
        assert alone[0] == same[0] == among[0] == moved[4]
        assert same_logprob[0].tobytes() == among_logprob[0].tobytes()
        np.testing.assert_allclose([same_logprob[0], moved_logprob[4]], alone_logprob[0], rtol=1e-6)


def test_a_greedy_row_beside_sampled_ones_takes_the_lowest_id_of_equals():
    tokens, _ = run([Row(seed=(0, i)) for i in range(ROWS - 1)] + [Row(temperature=1.0)], np.zeros(VOCAB))

    assert set(tokens[:-1].tolist()) == {0}


def test_padding_of_the_vocabulary_never_matters():
    logits = np.random.default_rng(2).normal(size=VOCAB).astype(np.float32)
    rows = [replace(EVERYTHING, seed=(0, i)) for i in range(ROWS)]
    padded = np.concatenate([logits, np.full(29, -np.inf, np.float32)])

    np.testing.assert_array_equal(run(rows, padded)[0], run(rows, logits)[0])


def test_each_part_of_a_token_s_place_changes_the_noise():
    row = Row(temperature=1.0)
    rows = [row, replace(row, seed=(1, 0)), replace(row, seed=(0, 1)), replace(row, sequence=1), row]
    tokens, _ = run(rows, np.zeros(VOCAB), generated=[0, 0, 0, 0, 1])

    assert len(set(tokens.tolist())) == 5


def exported(platform):
    arrays = {"logits": jnp.float32, "prompted": jnp.bool_, "counts": jnp.int32}
    shapes = [jax.ShapeDtypeStruct((2, 1000), dtype) for dtype in arrays.values()]
    request = {n: jax.ShapeDtypeStruct((2, *shape), jnp.dtype(d)) for n, (shape, d) in drawing.OPTIONS.items()}
    generated = jax.ShapeDtypeStruct((2,), jnp.int32)
    module = export.export(jax.jit(drawing.sample_tokens), platforms=[platform])(
        *shapes, generated, request
    ).mlir_module()
    return [re.sub(r" loc\(.*?\)$", "", line) for line in module.splitlines() if not line.startswith("#loc")]


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_exports_without_custom_calls_sorts_or_large_constants(platform):
    lines = exported(platform)
    operations = set(re.findall(r"(?:stablehlo|chlo)\.\w+", "\n".join(lines)))

    assert "stablehlo.while" in operations
    assert not operations & {"stablehlo.custom_call", "stablehlo.sort"}
    assert max(len(line) for line in lines if "stablehlo.constant" in line) < 200


def test_jax_s_own_settings_of_randomness_never_matter():
    usual = exported("cuda")
    with jax.threefry_partitionable(False), jax.default_prng_impl("rbg"):
        unusual = exported("cuda")

    assert unusual == usual
