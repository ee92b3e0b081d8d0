"""Attention over a KV cache: where a call's tokens lie, what they see, rotary positions."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from aot.programs import product

_BLOCK = 256
"""Slots of a cache that are read at once on CPU."""


@dataclass(frozen=True)
class Span:
    """Where the tokens of a call lie in their rows, and what of the cache they see. Derived from lengths alone."""

    start: jax.Array
    """[batch]: tokens that a row holds before the call."""
    lengths: jax.Array
    """[batch]: tokens that it gets by the call, ahead of its padding."""
    positions: jax.Array
    """[batch, length] of the call's tokens, padding included."""
    cosines: jax.Array
    sines: jax.Array
    """[batch, length, head_dim / 2] of the rotary angles."""
    window: int | None
    platform: str
    blockwise: bool
    """Whether a cache is read block by block; one that a mesh may split over its slots is not."""

    @classmethod
    def of(
        cls,
        window: int | None,
        start: jax.Array,
        lengths: jax.Array,
        width: int,
        turns: jax.Array | None = None,
        *,
        frequencies: "np.ndarray[Any, Any]",
        sections: tuple[int, ...] | None,
        platform: str,
        blockwise: bool,
    ) -> "Span":
        """The span of rows that hold `start` [batch] tokens before the call and get `lengths` [batch] of `width` more.

        They are turned by their positions; with several kinds of these, [batch, sections, width], each frequency by
        that of its section (M-RoPE, arXiv:2409.12191).
        """
        positions = start[:, None] + jnp.arange(width, dtype=jnp.int32)[None]
        by = positions[..., None]
        if sections is not None:
            assert turns is not None
            by = turns.swapaxes(1, 2)[..., np.repeat(np.arange(len(sections)), sections)]
        angles = by.astype(jnp.float32) * frequencies[None, None]
        turned = jnp.cos(angles), jnp.sin(angles)
        return cls(start, lengths, positions, *turned, window, platform, blockwise)

    def sees(self, slots: jax.Array) -> jax.Array:
        """Whether each token attends to each of some slots: [batch, length, slots]."""
        positions, slots = self.positions[..., None], slots[None, None]
        visible = slots <= positions
        return visible if self.window is None else visible & (slots > positions - np.int32(self.window))

    def blocks(self, size: int) -> tuple[jax.Array, jax.Array]:
        """The first block of so many slots that a token attends to, and the one after the last: one at the least."""
        live = self.lengths > 0
        end = jnp.maximum(jnp.max(jnp.where(live, self.start + self.lengths, 0)), 1)
        first = jnp.zeros_like(end)
        if self.window is not None:
            oldest = jnp.min(jnp.where(live, self.start - np.int32(self.window - 1), end - 1))
            first = jnp.maximum(oldest, 0)
        return lax.div(first, np.int32(size)), lax.div(end + np.int32(size - 1), np.int32(size))

    def write(self, cache: jax.Array, new: jax.Array) -> jax.Array:
        """Cache [batch, heads, capacity, dim] with new [batch, heads, length, dim] after each row's tokens.

        Padding is left out. Nothing but the slots of these tokens is read or written.
        """

        def row(cache: jax.Array, new: jax.Array, start: jax.Array, given: jax.Array) -> jax.Array:
            length = new.shape[1]
            first = jnp.minimum(start, np.int32(cache.shape[1] - length))
            token = jnp.arange(length, dtype=jnp.int32) - (start - first)  # padding may lie beyond the last slot
            held = lax.dynamic_slice_in_dim(cache, first, length, 1)
            placed = new if length == 1 else new.at[:, jnp.maximum(token, 0)].get(mode="clip")
            written = ((token >= 0) & (token < given))[None, :, None]
            return lax.dynamic_update_slice_in_dim(cache, jnp.where(written, placed, held), first, 1)

        return jax.vmap(row)(cache, _as(new, cache.dtype), self.start, self.lengths)


class Sums(NamedTuple):
    """Attention over the slots read so far, for each query [batch, kv_heads, group, length]: a softmax in the making.

    Read block by block (arXiv:2205.14135), a cache is never converted or masked as a whole, and slots without tokens
    are not read at all.
    """

    highest: jax.Array
    total: jax.Array
    """[…, 1]: the highest score, and the sum of all shares, which are the exponentials of scores less the highest."""
    mixed: jax.Array
    """[…, dim]: the sum of the values, each times its share."""

    @classmethod
    def nothing(cls, queries: jax.Array) -> "Sums":
        # Not -inf: a row of a batch that holds no token at all sees nothing, and must not become NaN.
        lowest = jnp.full((*queries.shape[:4], 1), jnp.finfo(jnp.float32).min)
        return cls(lowest, jnp.zeros_like(lowest), jnp.zeros(queries.shape, jnp.float32))

    def with_slots(
        self, queries: jax.Array, attention_keys: jax.Array, values: jax.Array, visible: jax.Array, platform: str
    ) -> "Sums":
        """Adds keys and values [batch, kv_heads, slots, dim] for queries [batch, kv_heads, group, length, dim]."""
        flat = queries.reshape(*queries.shape[:2], -1, queries.shape[-1])
        scores = by_head(flat, attention_keys, 3, platform) * np.float32(queries.shape[-1] ** -0.5)
        scores = scores.reshape(*queries.shape[:4], -1)
        scores = jnp.where(visible[:, None, None], scores, jnp.finfo(jnp.float32).min)
        highest = jnp.maximum(self.highest, jnp.max(scores, axis=-1, keepdims=True))
        shares, kept = jnp.exp(scores - highest), jnp.exp(self.highest - highest)
        added = by_head(shares.astype(queries.dtype).reshape(*flat.shape[:3], -1), values, 2, platform)
        total = self.total * kept + jnp.sum(shares, axis=-1, keepdims=True)
        return Sums(highest, total, self.mixed * kept + added.reshape(queries.shape))


def attend(query: jax.Array, attention_keys: jax.Array, values: jax.Array, span: Span) -> jax.Array:
    """Softmax attention: query [batch, length, heads, dim] over keys and values [batch, kv_heads, capacity, dim]."""
    batch, length, heads, dim = query.shape
    kv_heads, capacity = attention_keys.shape[1:3]
    # At least two blocks: where a whole cache is read, XLA fuses the reading with the writing, and writes it twice.
    size = min((capacity + 1) // 2, _BLOCK) if span.blockwise else capacity
    # Heads first: the two products then need no transposition of the scores, the largest arrays here.
    queries = query.reshape(batch, length, kv_heads, -1, dim).transpose(0, 2, 3, 1, 4)

    def add(index: jax.Array, sums: Sums) -> Sums:
        first = jnp.minimum(index * np.int32(size), np.int32(capacity - size))
        slots = first + jnp.arange(size, dtype=jnp.int32)
        visible = span.sees(slots) & (slots >= index * np.int32(size))[None, None]  # the last block may overlap
        attention_key, value = (
            _as(lax.dynamic_slice_in_dim(cache, first, size, 2), query.dtype) for cache in (attention_keys, values)
        )
        return sums.with_slots(queries, attention_key, value, visible, span.platform)

    sums = Sums.nothing(queries)
    sums = lax.fori_loop(*span.blocks(size), add, sums) if span.blockwise else add(jnp.int32(0), sums)
    mixed = (sums.mixed / sums.total).transpose(0, 3, 1, 2, 4)
    return mixed.astype(query.dtype).reshape(batch, length, heads, dim)


def _as(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """X, or its bits as another dtype of the same width."""
    return x if x.dtype == dtype else lax.bitcast_convert_type(x, dtype)


def by_head(x: jax.Array, y: jax.Array, axis: int, platform: str) -> jax.Array:
    """Products over x's last axis and an axis of y, for each row and head: [batch, kv_heads, …] in float32."""
    dimensions = (((3,), (axis,)), ((0, 1), (0, 1)))
    precision = product.product_precision(x.dtype, platform)
    return lax.dot_general(x, y, dimensions, precision=precision, preferred_element_type=jnp.float32)


def rotate_heads(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Rotary position embedding (arXiv:2104.09864) of x [batch, length, heads, dim], halves paired as in Llama."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cosines, sines = cosines[:, :, None], sines[:, :, None]
    turned = jnp.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)
    return turned.astype(x.dtype)
