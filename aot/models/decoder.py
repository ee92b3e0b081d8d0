"""The decoder of Llama, Mistral, Qwen2 and Qwen3 in flax: embedding, pre-norm blocks, head.

One implementation, driven by `DecoderConfig`. Parameters are declared in `aot.models.names`, which plan-time checks
read without jax; the modules here take their shapes from it. Each part is called on its own, as a program of its
own or inside the decode loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aot.chain import Array
from aot.models import names
from aot.models.config import DecoderConfig
from aot.programs import product

Shapes = Mapping[str, tuple[int, ...]]


class Part(nnx.Module):
    """A module with the parameters that `names` declares for it."""

    def __init__(self, declared: Shapes, dtype: str) -> None:
        for name, shape in declared.items():
            setattr(self, name, nnx.Param(jnp.zeros(shape, dtype)))


class Attention(Part):
    """Grouped-query attention over a KV cache, rotary positions, an optional sliding window."""

    def __init__(self, config: DecoderConfig, declared: Shapes, dtype: str) -> None:
        super().__init__(declared, dtype)
        self.config = config

    def __call__(self, x: jax.Array, cache: Mapping[str, jax.Array], span: "Span") -> tuple[jax.Array, dict[str, Any]]:
        """X [batch, length, hidden], cache arrays [batch, capacity, kv_heads, head_dim]: the sum and the new cache."""
        config, (batch, length, _) = self.config, x.shape
        normed = rms_norm(x, self.norm[...], config.rms_norm_eps)
        query = self._heads(normed, "q", config.num_heads, span)
        key = self._heads(normed, "k", config.num_kv_heads, span)
        value = _linear(self, "v", normed, span).reshape(batch, length, config.num_kv_heads, config.head_dim)
        keys, values = span.write(cache["key"], key), span.write(cache["value"], value)
        mixed = attend(query, keys, values, span).reshape(batch, length, -1)
        return x + _linear(self, "o", mixed, span), {"key": keys, "value": values}

    def _heads(self, x: jax.Array, name: str, heads: int, span: "Span") -> jax.Array:
        y = _linear(self, name, x, span).reshape(*x.shape[:2], heads, self.config.head_dim)
        if self.config.qk_norm:
            y = rms_norm(y, getattr(self, f"{name}_norm")[...], self.config.rms_norm_eps)
        return rotate(y, span.cosines, span.sines)


class MLP(Part):
    """SwiGLU (arXiv:2002.05202): down(silu(gate(x)) * up(x))."""

    def __init__(self, config: DecoderConfig, declared: Shapes, dtype: str) -> None:
        super().__init__(declared, dtype)
        self.config = config

    def __call__(self, x: jax.Array, span: "Span") -> jax.Array:
        normed = rms_norm(x, self.norm[...], self.config.rms_norm_eps)
        gated = jax.nn.silu(_linear(self, "gate", normed, span)) * _linear(self, "up", normed, span)
        return x + _linear(self, "down", gated, span)


class Block(nnx.Module):
    """One layer: attention and MLP, each behind its norm and added to its input."""

    def __init__(self, config: DecoderConfig, declared: Shapes, dtype: str) -> None:
        self.attention = Attention(config, _under(declared, "attention"), dtype)
        self.mlp = MLP(config, _under(declared, "mlp"), dtype)

    def __call__(self, x: jax.Array, cache: Mapping[str, jax.Array], span: "Span") -> tuple[jax.Array, dict[str, Any]]:
        x, cache = self.attention(x, cache, span)
        return self.mlp(x, span), dict(cache)


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
    grouped = query.reshape(batch, length, keys.shape[2], -1, size)
    precision = product.precision(query.dtype, span.platform)
    scores = jnp.einsum(
        "btkgd,bskd->bkgts", grouped, keys, preferred_element_type=jnp.float32, precision=precision
    ) * np.float32(size**-0.5)
    # Not -inf: a row of a batch that holds no token at all sees nothing, and must not become NaN.
    scores = jnp.where(span.visible[:, None, None], scores, jnp.finfo(jnp.float32).min)
    shares = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
    mixed = jnp.einsum("bkgts,bskd->btkgd", shares, values, preferred_element_type=jnp.float32, precision=precision)
    return mixed.astype(query.dtype).reshape(batch, length, heads, size)


def rotate(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Rotary position embedding (arXiv:2104.09864) of x [batch, length, heads, dim], halves paired as in Llama."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cosines, sines = cosines[:, :, None], sines[:, :, None]
    turned = jnp.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)
    return turned.astype(x.dtype)


def rms_norm(x: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    """Root-mean-square norm over the last axis (arXiv:1910.07467), in float32."""
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + np.float32(epsilon))
    return normed.astype(x.dtype) * scale.reshape((1,) * (x.ndim - 1) + scale.shape)


def _linear(part: Part, name: str, x: jax.Array, span: Span) -> jax.Array:
    bias = getattr(part, f"{name}_bias", None)
    return product.linear(x, getattr(part, f"{name}_proj")[...], None if bias is None else bias[...], span.platform)


def _under(declared: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {path.removeprefix(f"{prefix}/"): s for path, s in declared.items() if path.startswith(f"{prefix}/")}


@dataclass(frozen=True)
class Decoder:
    """The parts that `aot.programs.decoder.Decoder` asks of a family, on one platform."""

    config: DecoderConfig
    dtype: str
    platform: str

    @property
    def hidden(self) -> int:
        return self.config.hidden_size

    @property
    def vocab(self) -> int:
        return self.config.vocab_size

    @property
    def windows(self) -> tuple[int | None, ...]:
        return self.config.windows

    @property
    def cache(self) -> dict[str, tuple[int, ...]]:
        shape = (self.config.num_kv_heads, self.config.head_dim)
        return {"key": shape, "value": shape}

    @property
    def embed_weights(self) -> tuple[str, ...]:
        return ("embed/tokens",)

    @property
    def head_weights(self) -> tuple[str, ...]:
        return ("head/norm", self._output)

    @property
    def _output(self) -> str:
        return "embed/tokens" if self.config.tie_embeddings else "head/output"

    def weights(self) -> dict[str, Array]:
        return _weights(self.config, self.dtype)

    def embed(self, weights: Mapping[str, jax.Array], tokens: jax.Array) -> jax.Array:
        return weights["embed/tokens"].at[tokens].get(mode="clip")

    def span(self, window: int | None, start: jax.Array, lengths: jax.Array, width: int, capacity: int) -> Span:
        return Span.of(self, window, start, lengths, width, capacity)

    def block(
        self, weights: Mapping[str, jax.Array], x: jax.Array, cache: Mapping[str, jax.Array], span: Span
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        graph, abstract = _abstract_block(self.config, self.dtype)
        state = nnx.map_state(lambda path, leaf: leaf.replace(weights["/".join(map(str, path))]), abstract)
        return nnx.merge(graph, state)(x, cache, span)

    def head(self, weights: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
        normed = rms_norm(x, weights["head/norm"], self.config.rms_norm_eps)
        return product.project(normed, weights[self._output], self.platform)


@cache
def _weights(config: DecoderConfig, dtype: str) -> dict[str, Array]:
    return {path: Array(shape, dtype) for path, shape in names.parameters(config).items()}


@cache
def _abstract_block(config: DecoderConfig, dtype: str) -> tuple[Any, Any]:
    declared = _under(names.parameters(config), "layers/0")
    return nnx.split(nnx.eval_shape(lambda: Block(config, declared, dtype)))
