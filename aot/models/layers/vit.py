"""What vision transformers are made of: LayerNorm, attention among all patches of an image, the MLP, activations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from aot.chain import Array
from aot.models.families.names import ParameterShape
from aot.models.layers import attention
from aot.models.layers.decoder import Declared, DecoderPart, add_float32


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Layer norm over the last axis (arXiv:1607.06450), in float32."""
    wide, shape = x.astype(jnp.float32), (1,) * (x.ndim - 1) + scale.shape
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + np.float32(epsilon))
    return (normed * scale.astype(jnp.float32).reshape(shape) + bias.astype(jnp.float32).reshape(shape)).astype(x.dtype)


QUERIES = 512
"""Patches that attend at a time: scores of all would take the square of their number."""


def attend_patches(query: jax.Array, attention_key: jax.Array, value: jax.Array, platform: str) -> jax.Array:
    """Softmax attention of [images, patches, heads, dim]: each patch sees all patches of its image."""
    query, attention_key, value = (x.swapaxes(1, 2) for x in (query, attention_key, value))
    *rest, patches, size = query.shape
    parts = -(-patches // QUERIES)
    width = -(-patches // parts)
    padded = jnp.pad(query, ((0, 0), (0, 0), (0, parts * width - patches), (0, 0)))
    split = jnp.moveaxis(padded.reshape(*rest, parts, width, size), 2, 0)
    mixed = lax.map(lambda part: _mixed(part, attention_key, value, platform), split)
    return jnp.moveaxis(mixed, 0, 2).reshape(*rest, parts * width, size)[:, :, :patches].swapaxes(1, 2)


def _mixed(query: jax.Array, attention_key: jax.Array, value: jax.Array, platform: str) -> jax.Array:
    """Values [images, heads, queries, dim] as queries see them."""
    scores = attention.by_head(query, attention_key, 3, platform) * np.float32(query.shape[-1] ** -0.5)
    shares = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
    return attention.by_head(shares, value, 2, platform).astype(query.dtype)


def quick_gelu(x: jax.Array) -> jax.Array:
    """GELU approximated by a sigmoid (arXiv:1606.08415)."""
    return x * jax.nn.sigmoid(np.float32(1.702) * x)


ACTIVATION_FUNCTIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class VitMLP(DecoderPart):
    """A norm, then two projections with an activation between them, added to the input."""

    def __init__(self, epsilon: float, activation: str, declared: Declared) -> None:
        super().__init__(declared)
        self.epsilon, self.activation = epsilon, activation

    def __call__(self, x: jax.Array, platform: str) -> jax.Array:
        normed = layer_norm(x, self.norm[...], self.norm_bias[...], self.epsilon)
        inner = ACTIVATION_FUNCTIONS[self.activation](self.linear("up", normed, platform)).astype(x.dtype)
        return add_float32(x, self.linear("down", inner, platform))


class Config(Protocol):
    """What decides the computation of an encoder. Hashable."""

    @property
    def depth(self) -> int: ...
    def parameters(self) -> dict[str, ParameterShape]: ...


C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class VitEncoder(Generic[C]):
    """What the parts of all encoders have in common, as `aot.programs.encode.Encoder` asks for it."""

    config: C
    dtype: str
    platform: str

    @property
    def depth(self) -> int:
        return self.config.depth

    @property
    def patch_weights(self) -> tuple[str, ...]:
        return tuple(path for path in self.weights() if path.startswith("vision/") and "/layers/" not in path)

    @property
    def project_weights(self) -> tuple[str, ...]:
        return tuple(path for path in self.weights() if path.startswith("projector/"))

    def weights(self) -> dict[str, Array]:
        return {path: Array(shape, self.dtype) for path, shape in self.config.parameters().items()}
