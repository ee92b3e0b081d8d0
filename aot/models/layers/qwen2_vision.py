"""The vision transformer of Qwen2-VL in flax: patches with 2-D rotary positions, pre-norm blocks, merger."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aot.chain import Array
from aot.models.families import rope
from aot.models.families.qwen2_vl import Qwen2VLConfig
from aot.models.layers import vit
from aot.models.layers.attention import rotate_heads
from aot.models.layers.decoder import Declared, DecoderPart, add_float32, below_path, fill_module
from aot.programs import product
from aot.vision import Size

_EPSILON = 1e-6  # no field of the configuration


class Qwen2VisionAttention(DecoderPart):
    """Attention among the patches of an image, turned by their rows and columns."""

    def __init__(self, config: Qwen2VLConfig, declared: Declared) -> None:
        super().__init__(declared)
        self.config = config

    def __call__(self, x: jax.Array, cosines: jax.Array, sines: jax.Array, platform: str) -> jax.Array:
        """X [images, patches, width]: the sum; of the angles [patches, head_dim / 2]."""
        normed = vit.layer_norm(x, self.norm[...], self.norm_bias[...], _EPSILON)
        fused = self.linear("qkv", normed, platform).astype(x.dtype)
        parts = fused.reshape(*x.shape[:2], 3, self.config.num_heads, -1)
        query, attention_key = (rotate_heads(parts[:, :, i], cosines[None], sines[None]) for i in (0, 1))
        mixed = vit.attend_patches(query, attention_key, parts[:, :, 2], platform).reshape(x.shape)
        return add_float32(x, self.linear("o", mixed, platform))


class Qwen2VisionBlock(nnx.Module):
    """One layer: attention and MLP, each behind its norm and added to its input."""

    def __init__(self, config: Qwen2VLConfig, declared: Declared) -> None:
        self.attention = Qwen2VisionAttention(config, below_path(declared, "attention"))
        self.mlp = vit.VitMLP(_EPSILON, "quick_gelu", below_path(declared, "mlp"))

    def __call__(self, x: jax.Array, cosines: jax.Array, sines: jax.Array, platform: str) -> jax.Array:
        return self.mlp(self.attention(x, cosines, sines, platform), platform)


class Merger(DecoderPart):
    """A square of patches to one embedding: norm of each, then an MLP over all of them."""

    def __call__(self, x: jax.Array, tokens: int, platform: str) -> jax.Array:
        normed = vit.layer_norm(x, self.norm[...], self.norm_bias[...], _EPSILON)
        inner = self.linear("up", normed.reshape(x.shape[0], tokens, -1), platform)
        gelu = jax.nn.gelu(inner, approximate=False).astype(x.dtype)
        return self.linear("down", gelu, platform).astype(x.dtype)


class Qwen2VisionEncoder(vit.VitEncoder[Qwen2VLConfig]):
    """The parts that `aot.programs.encode.Encoder` asks of a family, on one platform."""

    def values(self, images: int, size: Size) -> dict[str, Array]:
        rows, columns = (side // self.config.patch_size for side in size)
        angles = Array((rows * columns, self.config.head_dim // 2), "float32")
        x = Array((images, rows * columns, self.config.width), self.dtype)
        return {"x": x, "cosines": angles, "sines": angles}

    def patch(self, weights: Mapping[str, jax.Array], pixels: jax.Array) -> dict[str, jax.Array]:
        patches = _patches(self.config, pixels.astype(self.dtype))
        x = product.apply_linear(patches, product.Matrix(weights["vision/patch_proj"]), None, self.platform)
        angles = _angles(self.config, Size(*pixels.shape[2:]))
        return {"x": x.astype(self.dtype), "cosines": jnp.cos(angles), "sines": jnp.sin(angles)}

    def block(self, weights: Mapping[str, jax.Array], x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
        module: Qwen2VisionBlock = fill_module(_abstract_block(self.config, self.dtype), weights)
        return module(x, cosines, sines, self.platform)

    def project(self, weights: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
        module: Merger = fill_module(_abstract_merger(self.config, self.dtype), below_path(weights, "projector"))
        return module(x, x.shape[1] // self.config.merge_size**2, self.platform)


def _patches(config: Qwen2VLConfig, pixels: jax.Array) -> jax.Array:
    """Pixels [images, channels, height, width] to [images, patches, values], the patches of an embedding together.

    A still image fills all the frames of a patch.
    """
    images, channels, height, width = pixels.shape
    patch, merge = config.patch_size, config.merge_size
    rows, columns = (side // config.images.unit for side in (height, width))
    cut = pixels.reshape(images, channels, rows, merge, patch, columns, merge, patch)
    frame = cut.transpose(0, 2, 5, 3, 6, 1, 4, 7)[..., None, :, :]
    shape = (*frame.shape[:6], config.temporal_patch_size, patch, patch)
    return jnp.broadcast_to(frame, shape).reshape(images, rows * columns * merge**2, -1)


def _angles(config: Qwen2VLConfig, size: Size) -> jax.Array:
    """Rotary angles [patches, head_dim / 2]: of its row in the first half, of its column in the second."""
    merge = config.merge_size
    rows, columns = (side // config.images.unit for side in size)
    frequencies = np.asarray(rope.rope_frequencies(config.rope_theta, config.head_dim // 2, None), np.float32)
    shape = (rows, columns, merge, merge)
    places = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(4))
    row, column, inner_row, inner_column = places
    turned = (outer * np.int32(merge) + inner for outer, inner in ((row, inner_row), (column, inner_column)))
    halves = (place.reshape(-1, 1).astype(jnp.float32) * frequencies[None] for place in turned)
    return jnp.concatenate(list(halves), axis=-1)


@cache
def _abstract_block(config: Qwen2VLConfig, dtype: str) -> tuple[Any, Any]:
    declared = below_path(Qwen2VisionEncoder(config, dtype, "cpu").weights(), "vision/layers/0")
    return nnx.split(nnx.eval_shape(lambda: Qwen2VisionBlock(config, declared)))


@cache
def _abstract_merger(config: Qwen2VLConfig, dtype: str) -> tuple[Any, Any]:
    declared = below_path(Qwen2VisionEncoder(config, dtype, "cpu").weights(), "projector")
    return nnx.split(nnx.eval_shape(lambda: Merger(declared)))
