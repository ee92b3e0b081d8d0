"""jax.jit over a decoder written as one usually is, compiled at start, with and without a warm persistent cache.

Layers unrolled, `x @ w` with weights stored (in, out), a cache of fixed size that is donated, a Python loop over steps.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers import measured

REQUIREMENTS = (
    "jax==0.12.0.1; python_version>='3.12'",
    "jax==0.10.2; python_version<'3.12'",
    "safetensors==0.8.0",
    "ml_dtypes==0.6.0",
)
VARIANTS = dict.fromkeys(("float32", "bfloat16"), ("jax.jit, cold", "jax.jit, warm cache"))

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Weights = dict[str, Any]
Cache = list[tuple[Any, Any]]


def prepare(dtype: str, checkpoint: Path, home: Path) -> None:
    """Stores matrices as (in, out), and fills the persistent cache."""
    import ml_dtypes  # noqa: F401, by it numpy knows bfloat16
    import numpy as np
    from safetensors.numpy import load_file, save_file

    weights = load_file(checkpoint / "model.safetensors")
    for name, weight in weights.items():
        if name.split(".")[-2] in _PROJECTIONS and weight.ndim == 2:
            weights[name] = np.ascontiguousarray(weight.T)
    save_file(weights, home / "weights.safetensors")
    (home / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    generate = open(dtype, VARIANTS[dtype][1], home, lambda: None)
    generate(measured.prompt(0), 2, lambda token: None)


def open(dtype: str, variant: str, home: Path, imported: Callable[[], None]) -> measured.Generate:
    import jax
    import jax.numpy as jnp
    from safetensors.flax import load_file

    imported()
    if variant == VARIANTS[dtype][1]:
        jax.config.update("jax_compilation_cache_dir", str(home / "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    config = json.loads((home / "config.json").read_text())
    weights = load_file(home / "weights.safetensors")
    step = jax.jit(_decoder(config), donate_argnums=1)
    shape = (1, measured.CAPACITY, config["num_key_value_heads"], _head_dim(config))

    def generate(ids: list[int], count: int, emit: measured.Emit) -> None:
        cache = [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config["num_hidden_layers"])]
        tokens, start = jnp.array([ids], jnp.int32), 0
        for _ in range(count):
            token, cache = step(weights, cache, tokens, start)
            emit(int(token[0]))
            start += tokens.shape[1]
            tokens = token[:, None]

    return generate


def _head_dim(config: dict[str, Any]) -> int:
    return config["hidden_size"] // config["num_attention_heads"]


def _decoder(config: dict[str, Any]) -> Callable[..., tuple[Any, Cache]]:
    """The next token of `tokens` [batch, length] that begin at `start`, and the cache with theirs added."""
    import jax.numpy as jnp

    def step(weights: Weights, cache: Cache, tokens: Any, start: Any) -> tuple[Any, Cache]:
        x = weights["model.embed_tokens.weight"][tokens]
        added = []
        for i, layer in enumerate(cache):
            prefix = f"model.layers.{i}"
            y = _norm(config, x, weights[f"{prefix}.input_layernorm.weight"])
            y, layer = _attention(config, weights, f"{prefix}.self_attn", y, layer, start)
            x = x + y
            y = _norm(config, x, weights[f"{prefix}.post_attention_layernorm.weight"])
            x = x + _mlp(weights, f"{prefix}.mlp", y)
            added.append(layer)
        x = _norm(config, x[:, -1], weights["model.norm.weight"])
        return jnp.argmax(x @ weights["model.embed_tokens.weight"].T, -1).astype(jnp.int32), added

    return step


def _norm(config: dict[str, Any], x: Any, scale: Any) -> Any:
    import jax.numpy as jnp
    from jax import lax

    y = x.astype(jnp.float32)
    y = y * lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + config["rms_norm_eps"])
    return y.astype(x.dtype) * scale


def _rotate(x: Any, angles: Any) -> Any:
    import jax.numpy as jnp

    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def _attention(
    config: dict[str, Any], weights: Weights, prefix: str, x: Any, cache: tuple[Any, Any], start: Any
) -> tuple[Any, tuple[Any, Any]]:
    import jax
    import jax.numpy as jnp
    from jax import lax

    dim, groups = _head_dim(config), config["num_attention_heads"] // config["num_key_value_heads"]

    def project(name: str) -> Any:
        y = x @ weights[f"{prefix}.{name}.weight"] + weights[f"{prefix}.{name}.bias"]
        return y.reshape(*x.shape[:2], -1, dim)

    positions = start + jnp.arange(x.shape[1])
    angles = positions[:, None] * config["rope_theta"] ** (-jnp.arange(0, dim, 2) / dim)
    queries, keys = _rotate(project("q_proj"), angles), _rotate(project("k_proj"), angles)
    keys = lax.dynamic_update_slice(cache[0], keys, (0, start, 0, 0))
    values = lax.dynamic_update_slice(cache[1], project("v_proj"), (0, start, 0, 0))
    queries = queries.reshape(*x.shape[:2], -1, groups, dim)
    scores = jnp.einsum("btkgd,bskd->bkgts", queries, keys).astype(jnp.float32) / dim**0.5
    seen = jnp.arange(keys.shape[1]) <= positions[:, None]
    shares = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), -1).astype(x.dtype)
    mixed = jnp.einsum("bkgts,bskd->btkgd", shares, values).reshape(*x.shape[:2], -1)
    return mixed @ weights[f"{prefix}.o_proj.weight"], (keys, values)


def _mlp(weights: Weights, prefix: str, x: Any) -> Any:
    import jax

    gate, up, down = (weights[f"{prefix}.{name}_proj.weight"] for name in ("gate", "up", "down"))
    return (jax.nn.silu(x @ gate) * (x @ up)) @ down


if __name__ == "__main__":
    measured.main(prepare, open, ("jax", "jaxlib"))
