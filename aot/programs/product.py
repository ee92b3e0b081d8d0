"""Matrix products, spelled for the platform that they are lowered for.

Every weight is stored [out, in]. On CPU the spelling alone decides the speed of a product by up to ten times:

- float32 contracts both last axes, whatever the number of rows, and streams the weight once.
- Two or more rows of a narrower type do the same with a float32 result, which XLA hands to a kernel library that
  accumulates in float32; with a result of the narrow type the weight would be converted first.
- One row of a narrow type would fall back to a loop that converts the whole weight. Where the weight has more rows
  than columns the explicit transpose streams it; elsewhere a second row, behind a barrier so that XLA cannot drop
  it again, leads back to the kernel library.
"""

import jax
import jax.numpy as jnp
from jax import lax

_BOTH_LAST = (((1,), (1,)), ((), ()))


def linear(x: jax.Array, weight: jax.Array, bias: jax.Array | None, platform: str) -> jax.Array:
    """X [..., in] through weight [out, in] and bias [out]: [..., out] in x's dtype, accumulated in float32."""
    y = project(x.reshape(-1, x.shape[-1]), weight, platform)
    if bias is not None:
        y = y + bias.astype(jnp.float32)[None]
    return y.astype(x.dtype).reshape(*x.shape[:-1], weight.shape[0])


def project(x: jax.Array, weight: jax.Array, platform: str) -> jax.Array:
    """X [rows, in] times the transpose of weight [out, in]: [rows, out] in float32."""
    (rows, width), (out, _) = x.shape, weight.shape
    if platform != "cpu" or x.dtype == jnp.float32 or rows > 1:
        return _dot(x, weight, platform)
    if out > width:
        return (x @ weight.T).astype(jnp.float32)
    return _dot(lax.optimization_barrier(jnp.pad(x, ((0, 1), (0, 0)))), weight, platform)[:1]


def precision(dtype: jnp.dtype, platform: str) -> lax.Precision:
    """Full float32 where the model is float32: accelerators would otherwise round the factors to shorter types."""
    return lax.Precision.HIGHEST if dtype == jnp.float32 and platform != "cpu" else lax.Precision.DEFAULT


def _dot(x: jax.Array, weight: jax.Array, platform: str) -> jax.Array:
    return lax.dot_general(
        x, weight, _BOTH_LAST, precision=precision(x.dtype, platform), preferred_element_type=jnp.float32
    )
