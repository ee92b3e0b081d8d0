"""Attention over a KV cache: where a call's tokens lie, what they see, rotary positions."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from aot.programs import product

if TYPE_CHECKING:
    from aot.models.decoder import Decoder


@dataclass(frozen=True)
class Span:
    """Where the tokens of a call lie in their rows, and what of the cache they see. Derived from lengths alone."""

    positions: jax.Array
    """[batch, length]: the cache slot of each token; the capacity, which is no slot, for a padding token."""
    visible: jax.Array
    """[batch, length, capacity]: whether a token attends to a slot."""
    cosines: jax.Array
    sines: jax.Array
    """[batch, length, head_dim / 2] of the rotary angles."""
    platform: str

    @classmethod
    def of(
        cls, decoder: "Decoder", window: int | None, start: jax.Array, lengths: jax.Array, width: int, capacity: int
    ) -> "Span":
        """Of rows that hold `start` [batch] tokens before the call and get `lengths` [batch] by it."""
        index = jnp.arange(width, dtype=jnp.int32)[None]
        slots = jnp.arange(capacity, dtype=jnp.int32)[None, None]
        positions = start[:, None] + index
        visible = slots <= positions[..., None]
        if window is not None:
            visible &= slots > positions[..., None] - np.int32(window)
        frequencies = np.asarray(decoder.config.inverse_frequencies(), np.float32)
        angles = positions[..., None].astype(jnp.float32) * frequencies[None, None]
        placed = jnp.where(index < lengths[:, None], positions, np.int32(capacity))
        return cls(placed, visible, jnp.cos(angles), jnp.sin(angles), decoder.platform)

    def write(self, cache: jax.Array, new: jax.Array) -> jax.Array:
        """Cache [batch, capacity, …] with new [batch, length, …] at the tokens' positions; padding is left out."""
        if new.shape[1] == 1:  # a scatter of one slot a row happens in place
            rows = jnp.arange(cache.shape[0], dtype=jnp.int32)[:, None]
            return cache.at[rows, self.positions].set(new, mode="drop", unique_indices=True)
        # A scatter of many slots is a slow loop on CPU: read each slot from the token that belongs there instead.
        slots = jnp.arange(cache.shape[1], dtype=jnp.int32)[None, :, None]
        from_token = self.positions[:, None, :] == slots
        token = jnp.argmax(from_token, axis=-1).astype(jnp.int32)[:, :, None, None]
        written = jnp.any(from_token, axis=-1)[:, :, None, None]
        return jnp.where(written, jnp.take_along_axis(new, token, axis=1), cache)


def attend(query: jax.Array, keys: jax.Array, values: jax.Array, span: Span) -> jax.Array:
    """Softmax attention: query [batch, length, heads, dim] over keys and values [batch, capacity, kv_heads, dim]."""
    batch, length, heads, size = query.shape
    kv_heads, capacity = keys.shape[2], keys.shape[1]
    # Heads first: the two products then need no transposition of the scores, the largest arrays here.
    grouped = query.reshape(batch, length, kv_heads, -1, size).transpose(0, 2, 3, 1, 4)
    keys, values = keys.transpose(0, 2, 1, 3), values.transpose(0, 2, 1, 3)
    scores = _by_head(grouped.reshape(batch, kv_heads, -1, size), keys, 3, span.platform) * np.float32(size**-0.5)
    scores = scores.reshape(*grouped.shape[:4], capacity)
    # Not -inf: a row of a batch that holds no token at all sees nothing, and must not become NaN.
    scores = jnp.where(span.visible[:, None, None], scores, jnp.finfo(jnp.float32).min)
    shares = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    total = jnp.sum(shares, axis=-1, keepdims=True)
    flat = shares.astype(query.dtype).reshape(batch, kv_heads, -1, capacity)
    mixed = _by_head(flat, values, 2, span.platform).reshape(grouped.shape) / total
    return mixed.transpose(0, 3, 1, 2, 4).astype(query.dtype).reshape(batch, length, heads, size)


def _by_head(x: jax.Array, y: jax.Array, axis: int, platform: str) -> jax.Array:
    """Products over x's last axis and an axis of y, for each row and head: [batch, kv_heads, …] in float32."""
    dimensions = (((3,), (axis,)), ((0, 1), (0, 1)))
    precision = product.precision(x.dtype, platform)
    return jax.lax.dot_general(x, y, dimensions, precision=precision, preferred_element_type=jnp.float32)


def rotate(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Rotary position embedding (arXiv:2104.09864) of x [batch, length, heads, dim], halves paired as in Llama."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cosines, sines = cosines[:, :, None], sines[:, :, None]
    turned = jnp.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)
    return turned.astype(x.dtype)
