"""Attention over a cache in blocks, and the writing of it, against NumPy over whole rows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aot.models.families.config import DecoderConfig
from aot.models.layers import attention
from aot.models.layers.attention import Span
from aot.models.layers.decoder import FamilyDecoder

CAPACITY, HEADS, KV_HEADS, DIM = 700, 4, 2, 8  # no multiple of a block
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 1}
CONFIG = DecoderConfig.from_huggingface(
    {
        "family": "qwen3",
        **SIZES,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 1024,
    }
)
CASES = [
    ([0, 0], [5, 3], 5),
    ([255, 256], [1, 1], 1),
    ([698, 3], [2, 5], 5),  # padding beyond the last slot
    ([700, 40], [0, 1], 1),  # a full row, and no slot to write
    ([650, 300], [0, 4], 4),
]


def random(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def span(start: list[int], lengths: list[int], width: int, window: int | None = None, platform: str = "cpu") -> Span:
    rows = (jnp.asarray(start, jnp.int32), jnp.asarray(lengths, jnp.int32))
    return FamilyDecoder(CONFIG, "float32", platform).span(window, *rows, width)


def attended(query: Any, keys: Any, values: Any, where: Span) -> Any:
    return jax.jit(lambda *arrays: attention.attend(*arrays, where))(query, keys, values)


@pytest.mark.parametrize(("start", "lengths", "width"), CASES)
@pytest.mark.parametrize(("platform", "window"), [("cpu", None), ("cpu", 300), ("cuda", 7)])
def test_a_token_mixes_the_values_that_it_sees_and_no_others(
    start: list[int], lengths: list[int], width: int, platform: str, window: int | None
) -> None:
    query, keys, values = random(2, width, HEADS, DIM), *(random(n, 2, KV_HEADS, CAPACITY, DIM)[0] for n in (3, 4))

    found = attended(query, keys, values, span(start, lengths, width, window, platform))

    assert np.isfinite(found).all()
    for row, token in ((n, t) for n in range(2) for t in range(lengths[n])):
        last = start[row] + token
        seen = slice(0 if window is None else max(0, last - window + 1), last + 1)
        for head in range(HEADS):
            scores = keys[row, head // 2, seen].astype(np.float64) @ query[row, token, head] / np.sqrt(DIM)
            shares = np.exp(scores - scores.max())
            mixed = shares @ values[row, head // 2, seen] / shares.sum()
            np.testing.assert_allclose(found[row, token, head], mixed, atol=2e-6)


@pytest.mark.parametrize(("start", "lengths", "width"), CASES)
@pytest.mark.parametrize("kept", ["float32", "uint16"])
def test_tokens_are_written_after_those_of_their_row_and_nothing_else_is(
    start: list[int], lengths: list[int], width: int, kept: str
) -> None:
    dtype = "bfloat16" if kept == "uint16" else kept
    cache, new = (np.asarray(jnp.asarray(random(2, KV_HEADS, slots, DIM)).astype(dtype)) for slots in (CAPACITY, width))

    found = jax.jit(span(start, lengths, width).write)(cache.view(kept), new)

    wanted = cache.copy()
    for row in range(2):
        wanted[row, :, start[row] : start[row] + lengths[row]] = new[row, :, : lengths[row]]
    np.testing.assert_array_equal(np.asarray(found), wanted.view(kept))


def test_what_a_row_gives_depends_on_no_other_row_and_on_no_unfilled_slot() -> None:
    query, keys, values = random(2, 1, HEADS, DIM), *(random(n, 2, KV_HEADS, CAPACITY, DIM)[0] for n in (3, 4))
    other = values.copy()
    other[0, :, 101:] = 9

    alone = attended(query, keys, values, span([100, 3], [1, 1], 1))
    beside = attended(query, keys, other, span([100, 680], [1, 1], 1))

    np.testing.assert_array_equal(alone[0], beside[0])
