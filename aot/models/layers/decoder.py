"""The decoder of Llama, Mistral, Qwen2 and Qwen3 in flax: embedding, pre-norm blocks, head.

One implementation, driven by `DecoderConfig`. Parameters are declared in `aot.models.families.names`, which plan-time
checks read without jax; the modules here take their shapes from it. Each part is called on its own, as a program of its
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
from aot.models.families import names
from aot.models.families.config import DecoderConfig
from aot.models.layers.attention import Span, attend, rotate_heads
from aot.programs import product

Declared = Mapping[str, Array]


class DecoderPart(nnx.Module):
    """A module with the parameters that `names` declares for it."""

    def __init__(self, declared: Declared) -> None:
        for name, array in declared.items():
            setattr(self, name, nnx.Param(jnp.zeros(array.shape, array.dtype)))

    def linear(self, name: str, x: jax.Array, platform: str) -> jax.Array:
        """X [..., in] through the projection of a name: [..., out] in float32."""
        weight: jax.Array = getattr(self, f"{name}_proj")[...]
        scale, bias = (self._value(f"{name}_{kind}") for kind in ("scale", "bias"))
        return product.apply_linear(x, product.Matrix(weight, scale), bias, platform)

    def _value(self, name: str) -> jax.Array | None:
        parameter = getattr(self, name, None)
        return None if parameter is None else parameter[...]


class DecoderAttention(DecoderPart):
    """Grouped-query attention over a KV cache, rotary positions, an optional sliding window."""

    def __init__(self, config: DecoderConfig, declared: Declared) -> None:
        super().__init__(declared)
        self.config = config

    def __call__(self, x: jax.Array, cache: Mapping[str, jax.Array], span: Span) -> tuple[jax.Array, dict[str, Any]]:
        """X [batch, length, hidden], cache arrays [batch, kv_heads, capacity, head_dim]: the sum and the new cache."""
        config, (batch, length, _) = self.config, x.shape
        normed = rms_norm(x, self.norm[...], config.rms_norm_eps)
        query = self._heads(normed, "q", config.num_heads, span)
        attention_key = self._heads(normed, "k", config.num_kv_heads, span)
        value = self.linear("v", normed, span.platform).astype(x.dtype)
        value = value.reshape(batch, length, config.num_kv_heads, config.head_dim)
        attention_keys, values = (
            span.write(cache[name], new.swapaxes(1, 2)) for name, new in (("key", attention_key), ("value", value))
        )
        mixed = attend(query, attention_keys, values, span).reshape(batch, length, -1)
        return add_float32(x, self.linear("o", mixed, span.platform)), {"key": attention_keys, "value": values}

    def _heads(self, x: jax.Array, name: str, heads: int, span: Span) -> jax.Array:
        y = self.linear(name, x, span.platform).astype(x.dtype).reshape(*x.shape[:2], heads, self.config.head_dim)
        if self.config.qk_norm:
            y = rms_norm(y, getattr(self, f"{name}_norm")[...], self.config.rms_norm_eps)
        return rotate_heads(y, span.cosines, span.sines)


class DecoderMLP(DecoderPart):
    """SwiGLU (arXiv:2002.05202): down(silu(gate(x)) * up(x))."""

    def __init__(self, config: DecoderConfig, declared: Declared) -> None:
        super().__init__(declared)
        self.config = config

    def __call__(self, x: jax.Array, span: Span) -> jax.Array:
        normed = rms_norm(x, self.norm[...], self.config.rms_norm_eps)
        gate, up = (self.linear(name, normed, span.platform) for name in ("gate", "up"))
        gated = (gate * up / (np.float32(1) + jnp.exp(-gate))).astype(x.dtype)  # one loop over both, and one rounding
        return add_float32(x, self.linear("down", gated, span.platform))


class DecoderBlock(nnx.Module):
    """One layer: attention and MLP, each behind its norm and added to its input."""

    def __init__(self, config: DecoderConfig, declared: Declared) -> None:
        self.attention = DecoderAttention(config, below_path(declared, "attention"))
        self.mlp = DecoderMLP(config, below_path(declared, "mlp"))

    def __call__(self, x: jax.Array, cache: Mapping[str, jax.Array], span: Span) -> tuple[jax.Array, dict[str, Any]]:
        x, cache = self.attention(x, cache, span)
        return self.mlp(x, span), dict(cache)


def add_float32(x: jax.Array, y: jax.Array) -> jax.Array:
    """X plus a float32 y, in x's dtype."""
    return (x.astype(jnp.float32) + y).astype(x.dtype)


def rms_norm(x: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    """Root-mean-square norm over the last axis (arXiv:1910.07467), in float32."""
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + np.float32(epsilon))
    return normed.astype(x.dtype) * scale.reshape((1,) * (x.ndim - 1) + scale.shape)


def below_path(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What lies below a path, by the rest of its path."""
    return {path.removeprefix(f"{prefix}/"): a for path, a in arrays.items() if path.startswith(f"{prefix}/")}


def fill_module(module: tuple[Any, Any], weights: Mapping[str, jax.Array]) -> nnx.Module:
    """A module that was split without values, with its weights by path."""
    graph, abstract = module
    state = nnx.map_state(lambda path, leaf: leaf.replace(weights["/".join(map(str, path))]), abstract)
    return nnx.merge(graph, state)


@dataclass(frozen=True)
class FamilyDecoder:
    """The parts that `aot.programs.decoder_parts.Decoder` asks of a family, on one platform."""

    config: DecoderConfig
    dtype: str
    platform: str
    quantization: str | None = None
    several: bool = False
    """Whether it runs on a mesh of several devices."""

    @property
    def stepwise(self) -> bool:
        # On a mesh each call waits for the other devices, and an accelerator for its host.
        return self.platform == "cpu" and not self.several

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
    def sections(self) -> tuple[int, ...] | None:
        return self.config.mrope

    @property
    def embed_weights(self) -> tuple[str, ...]:
        return self._matrix("embed/tokens")

    @property
    def head_weights(self) -> tuple[str, ...]:
        return ("head/norm", *self._matrix(self._output))

    @property
    def _output(self) -> str:
        return "embed/tokens" if self.config.tie_embeddings else "head/output"

    def _matrix(self, path: str) -> tuple[str, ...]:
        return (path,) if self.quantization is None else (path, names.scale_path(path))

    def weights(self) -> dict[str, Array]:
        return _weights(self.config, self.dtype, self.quantization)

    def cache(self, batch: int, capacity: int) -> dict[str, Array]:
        # As attention's products read it. XLA for CPU would update any bfloat16 by way of float32, the whole array at
        # each step; bits it updates in place.
        dtype = "uint16" if (self.platform, self.dtype) == ("cpu", "bfloat16") else self.dtype
        array = Array((batch, self.config.num_kv_heads, capacity, self.config.head_dim), dtype)
        return {"key": array, "value": array}

    def embed(self, weights: Mapping[str, jax.Array], tokens: jax.Array) -> jax.Array:
        rows = weights["embed/tokens"].at[tokens].get(mode="clip")
        if self.quantization is None:
            return rows
        scales = weights[names.scale_path("embed/tokens")].at[tokens].get(mode="clip")
        return (rows.astype(jnp.float32) * scales[..., None]).astype(self.dtype)

    def span(
        self,
        window: int | None,
        start: jax.Array,
        lengths: jax.Array,
        width: int,
        positions: jax.Array | None = None,
    ) -> Span:
        return Span.of(
            window,
            start,
            lengths,
            width,
            positions,
            frequencies=np.asarray(self.config.inverse_frequencies(), np.float32),
            sections=self.sections,
            platform=self.platform,
            blockwise=self.stepwise,
        )

    def block(
        self, weights: Mapping[str, jax.Array], x: jax.Array, cache: Mapping[str, jax.Array], span: Span
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        module: DecoderBlock = fill_module(_abstract_block(self.config, self.dtype, self.quantization), weights)
        return module(x, cache, span)

    def head(self, weights: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
        normed = rms_norm(x, weights["head/norm"], self.config.rms_norm_eps)
        matrix = product.Matrix(weights[self._output], weights.get(names.scale_path(self._output)))
        return product.project_rows(normed, matrix, self.platform)


@cache
def _weights(config: DecoderConfig, dtype: str, quantization: str | None) -> dict[str, Array]:
    return names.weight_arrays(config, dtype, quantization)


@cache
def _abstract_block(config: DecoderConfig, dtype: str, quantization: str | None) -> tuple[Any, Any]:
    declared = below_path(_weights(config, dtype, quantization), "layers/0")
    return nnx.split(nnx.eval_shape(lambda: DecoderBlock(config, declared)))
