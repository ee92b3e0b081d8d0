"""The vision tower of CLIP (arXiv:2103.00020) and LLaVA's projector in flax: patches, pre-norm blocks, two layers.

Parameters are declared in `aot.models.families.llava_config`. Each part is called on its own, as a program of its own.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from aot.chain import Array
from aot.models.families.llava_config import TowerConfig
from aot.models.layers import bicubic, vit
from aot.models.layers.decoder import Declared, DecoderPart, add_float32, below_path, fill_module
from aot.vision import Size


class Piece(DecoderPart):
    """A module with its parameters and the sizes of the tower."""

    def __init__(self, config: TowerConfig, declared: Declared) -> None:
        super().__init__(declared)
        self.config = config


class ClipAttention(Piece):
    """Attention among the patches of an image."""

    def __call__(self, x: jax.Array, platform: str) -> jax.Array:
        """X [images, patches, width]: the sum."""
        normed = vit.layer_norm(x, self.norm[...], self.norm_bias[...], self.config.epsilon)
        shape = (*x.shape[:2], self.config.heads, -1)
        query, attention_key, value = (
            self.linear(name, normed, platform).astype(x.dtype).reshape(shape) for name in "qkv"
        )
        mixed = vit.attend_patches(query, attention_key, value, platform).reshape(x.shape)
        return add_float32(x, self.linear("o", mixed, platform))


class ClipBlock(nnx.Module):
    """One layer: attention and MLP, each behind its norm and added to its input."""

    def __init__(self, config: TowerConfig, declared: Declared) -> None:
        self.attention = ClipAttention(config, below_path(declared, "attention"))
        self.mlp = vit.VitMLP(config.epsilon, config.activation, below_path(declared, "mlp"))

    def __call__(self, x: jax.Array, platform: str) -> jax.Array:
        return self.mlp(self.attention(x, platform), platform)


class ClipPatch(Piece):
    """Patches of an image as vectors behind that of the class token, each with the vector of its place."""

    def __call__(self, pixels: jax.Array, platform: str) -> jax.Array:
        """Pixels [images, channels, height, width] to x [images, 1 + patches, width]."""
        config, dtype = self.config, self.norm[...].dtype
        rows, columns = (side // config.patch for side in pixels.shape[2:])
        cut = pixels.reshape(len(pixels), config.channels, rows, config.patch, columns, config.patch)
        flat = cut.transpose(0, 2, 4, 1, 3, 5).reshape(len(pixels), rows * columns, -1)
        patches = self.linear("patch", flat.astype(dtype), platform)
        token = jnp.broadcast_to(self.class_token[...].astype(jnp.float32), (len(pixels), 1, config.width))
        x = jnp.concatenate([token, patches], axis=1) + self._places(rows, columns)[None]
        return vit.layer_norm(x.astype(dtype), self.norm[...], self.norm_bias[...], config.epsilon)

    def _places(self, rows: int, columns: int) -> jax.Array:
        """Vectors [1 + patches, width] of the places in an image: of other sizes than trained for by interpolation."""
        table, grid = self.positions[...].astype(jnp.float32), self.config.grid
        if (rows, columns) == (grid, grid):
            return table
        square = table[1:].reshape(grid, grid, -1)
        spread = _resized(_resized(square, rows).swapaxes(0, 1), columns).swapaxes(0, 1)
        return jnp.concatenate([table[:1], spread.reshape(rows * columns, -1)])


class Projector(Piece):
    """Two projections with the activation between them."""

    def __call__(self, x: jax.Array, platform: str) -> jax.Array:
        seen = x if self.config.whole else x[:, 1:]
        inner = vit.ACTIVATION_FUNCTIONS[self.config.projector_activation](self.linear("first", seen, platform))
        return self.linear("second", inner.astype(x.dtype), platform).astype(x.dtype)


class Clip(vit.VitEncoder[TowerConfig]):
    """The parts that `aot.programs.encode.Encoder` asks of a family, on one platform."""

    def values(self, images: int, size: Size) -> dict[str, Array]:
        rows, columns = (side // self.config.patch for side in size)
        return {"x": Array((images, 1 + rows * columns, self.config.width), self.dtype)}

    def patch(self, weights: Mapping[str, jax.Array], pixels: jax.Array) -> dict[str, jax.Array]:
        module: ClipPatch = fill_module(_abstract(ClipPatch, self.config, self.dtype), below_path(weights, "vision"))
        return {"x": module(pixels, self.platform)}

    def block(self, weights: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
        module: ClipBlock = fill_module(_abstract(ClipBlock, self.config, self.dtype), weights)
        return module(x, self.platform)

    def project(self, weights: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
        module: Projector = fill_module(_abstract(Projector, self.config, self.dtype), below_path(weights, "projector"))
        return module(x, self.platform)


def _resized(table: jax.Array, size: int) -> jax.Array:
    """A table [places, …] at `size` places along its first axis."""
    nearest, weights = bicubic.bicubic_taps(size, len(table))
    four = table[np.asarray(nearest, np.int32)]
    return jnp.einsum("ij,ij...->i...", np.asarray(weights, np.float32), four, precision=lax.Precision.HIGHEST)


@cache
def _abstract(kind: Any, config: TowerConfig, dtype: str) -> tuple[Any, Any]:
    below = below_path(
        Clip(config, dtype, "cpu").weights(),
        {ClipPatch: "vision", ClipBlock: "vision/layers/0", Projector: "projector"}[kind],
    )
    declared = {path: array for path, array in below.items() if not path.startswith("layers/")}
    return nnx.split(nnx.eval_shape(lambda: kind(config, declared)))
