"""Small decoders and values for them."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from aot.models.families.config import DecoderConfig


def random(*shape: int, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.asarray(jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32)).astype(dtype))


def config(**fields: Any) -> DecoderConfig:
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return DecoderConfig.from_huggingface({"family": "qwen3", **sizes, **heads, **fields})
