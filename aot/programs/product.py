"""Matrix products, spelled for the platform that they are lowered for.

Every weight is stored [out, in]. On CPU the spelling alone decides the speed of a product by up to ten times:

- float32 contracts both last axes, whatever the number of rows, and streams the weight once.
- Two or more rows of bfloat16 or int8 do the same with a float32 or int32 result, which XLA hands to a kernel library;
  with a result of the narrow type the weight would be converted first.
- One row of these would fall back to a loop that converts the whole weight. A second row, behind a barrier so that
  XLA cannot drop it again, leads to the kernel library, which repacks the factor on the right: so the weight goes to
  the left. Weights of 8 MB, GB/s on two cores: bfloat16 13 to 19 (on the right 9, `x @ w.T` 9, 1.4 where out < in),
  int8 9 (on the right 5).
- Beside int8 weights a row of activations is rounded to 16 bits and taken as two rows of int8. In 8 bits the few
  channels that are hundreds of times as large as the rest, as most trained models have them, would leave the rest
  nothing but noise. Where one row needs a second one anyway, they cost nothing.
- The library has no float16, and XLA widens the whole weight first: 1 to 2 GB/s and twice the weight in memory. Widened
  in blocks of some rows, which stay in the cache, it is streamed: 4 to 6.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

_BOTH_LAST = (((1,), (1,)), ((), ()))
_BLOCK = 64  # rows of a float16 weight that are widened at once
_HALF = 128  # a rounded activation is this times its high half, plus its low one, from -64 to 63
_LARGEST = 127 * _HALF + 63  # of which the high half still is an int8, on either side of zero
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Matrix:
    """A weight [out, in]: floats, or int8 with the float32 scale of each row."""

    values: jax.Array
    scale: jax.Array | None = None


def apply_linear(x: jax.Array, matrix: Matrix, bias: jax.Array | None, platform: str) -> jax.Array:
    """X [..., in] through a matrix and bias [out]: [..., out] in float32."""
    y = project_rows(x.reshape(-1, x.shape[-1]), matrix, platform)
    if bias is not None:
        y = y + bias.astype(jnp.float32)[None]
    return y.reshape(*x.shape[:-1], y.shape[-1])


def project_rows(x: jax.Array, matrix: Matrix, platform: str) -> jax.Array:
    """X [rows, in] times the transpose of a matrix: [rows, out] in float32."""
    if matrix.scale is None:
        return _floats(x, matrix.values, platform)
    if platform == "cuda":  # its int8 products want larger operands than a row, so the weight alone is narrow there
        return _dot(x, matrix.values.astype(x.dtype), platform) * matrix.scale[None]
    halves, scale = quantize_activations(x)
    high, low = _integers(halves, matrix.values, platform).astype(jnp.float32)
    return (high * np.float32(_HALF) + low) * scale * matrix.scale[None]


def quantize_activations(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """X [rows, in] as 16-bit integers in two halves of int8, [2, rows, in], and the scale of each row, [rows, 1].

    The scale is the row's largest magnitude / 16319; an integer is 128 times its high half, plus its low one.
    """
    wide = x.astype(jnp.float32)
    # a row of zeros, as padding may be, is divided by the smallest normal number
    scale = jnp.max(jnp.abs(wide), axis=1, keepdims=True) / np.float32(_LARGEST) + np.float32(_TINY)
    rounded = jnp.round(wide / scale).astype(jnp.int32)
    high = lax.shift_right_arithmetic(rounded + np.int32(_HALF // 2), np.int32(_HALF.bit_length() - 1))
    return jnp.stack([high, rounded - high * np.int32(_HALF)]).astype(jnp.int8), scale


def product_precision(dtype: jnp.dtype, platform: str) -> lax.Precision:
    """Full float32 where the model is float32: accelerators would otherwise round the factors to shorter types."""
    return lax.Precision.HIGHEST if dtype == jnp.float32 and platform != "cpu" else lax.Precision.DEFAULT


def _floats(x: jax.Array, weight: jax.Array, platform: str) -> jax.Array:
    if platform == "cpu" and x.dtype == jnp.float16:
        return _widened(x, weight)
    if platform == "cpu" and x.dtype == jnp.bfloat16 and x.shape[0] == 1:
        return _one(x, weight)
    return _dot(x, weight, platform)


def _integers(halves: jax.Array, weight: jax.Array, platform: str) -> jax.Array:
    """Halves [2, rows, in] times the transpose of a weight: [2, rows, out] in int32."""
    if platform == "cpu" and halves.shape[1] == 1:
        return _on_the_right(halves[:, 0], weight, jnp.int32).T[:, None]
    return lax.dot_general(halves, weight, (((2,), (1,)), ((), ())), preferred_element_type=jnp.int32)


def _one(x: jax.Array, weight: jax.Array) -> jax.Array:
    """One row, beside a second one of zeros."""
    return _on_the_right(jnp.pad(x, ((0, 1), (0, 0))), weight, jnp.float32)[:, :1].T


def _on_the_right(x: jax.Array, weight: jax.Array, result: DTypeLike) -> jax.Array:
    """The products [out, 2] of two rows, of which XLA does not see what they are made of."""
    return lax.dot_general(weight, lax.optimization_barrier(x), _BOTH_LAST, preferred_element_type=result)


def _widened(x: jax.Array, weight: jax.Array) -> jax.Array:
    out, width = weight.shape
    size, wide = min(out, _BLOCK), x.astype(jnp.float32)

    def block(index: jax.Array, y: jax.Array) -> jax.Array:
        start = jnp.minimum(index * np.int32(size), np.int32(out - size))  # the last one overlaps its neighbour
        part = lax.dynamic_slice(weight, (start, np.int32(0)), (size, width)).astype(jnp.float32)
        return lax.dynamic_update_slice(y, _dot(wide, lax.optimization_barrier(part), "cpu"), (np.int32(0), start))

    return lax.fori_loop(0, -(-out // size), block, jnp.zeros((x.shape[0], out), jnp.float32))


def _dot(x: jax.Array, weight: jax.Array, platform: str) -> jax.Array:
    return lax.dot_general(
        x, weight, _BOTH_LAST, precision=product_precision(x.dtype, platform), preferred_element_type=jnp.float32
    )
