"""A decoder of text in NumPy and float64, for sequences without a record; held to records by test_reference.py."""

import numpy as np


def logits(case, ids, tensors=None):
    """[tokens, vocabulary] of a row by itself; by the tensors of a recorded case, or by others of the same names."""
    config, windows = case.config, case.made["windows"]
    weights = {
        name.removeprefix("model."): array.astype(np.float64) for name, array in (tensors or case.tensors).items()
    }
    x = weights["embed_tokens.weight"][ids]
    for i, window in enumerate(windows):
        layer = {
            name.removeprefix(f"layers.{i}."): array
            for name, array in weights.items()
            if name.startswith(f"layers.{i}.")
        }
        normed = _norm(x, layer["input_layernorm.weight"], config)
        x = x + _attended(normed, layer, case, window)
        normed = _norm(x, layer["post_attention_layernorm.weight"], config)
        gate, up = (_projected(normed, layer, f"mlp.{name}_proj") for name in ("gate", "up"))
        x = x + _projected(gate / (1 + np.exp(-gate)) * up, layer, "mlp.down_proj")
    head = weights.get("lm_head.weight", weights["embed_tokens.weight"])
    return _norm(x, weights["norm.weight"], config) @ head.T


def _attended(x, layer, case, window):
    """Causal attention of all heads, to `window` tokens up to itself, or to all before."""
    heads, kept = case.config["num_attention_heads"], case.config["num_key_value_heads"]
    query, key, value = (
        _projected(x, layer, f"self_attn.{name}_proj").reshape(len(x), count, -1).transpose(1, 0, 2)
        for name, count in (("q", heads), ("k", kept), ("v", kept))
    )
    if "self_attn.q_norm.weight" in layer:
        query, key = (
            _norm(array, layer[f"self_attn.{name}_norm.weight"], case.config)
            for name, array in (("q", query), ("k", key))
        )
    query, key = (_rotated(array, case.made["frequencies"]) for array in (query, key))
    key, value = (array.repeat(heads // kept, 0) for array in (key, value))
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
    behind = np.subtract.outer(np.arange(len(x)), np.arange(len(x)))
    scores[:, (behind < 0) | (behind >= (window or len(x)))] = -np.inf
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return _projected((shares @ value).transpose(1, 0, 2).reshape(len(x), -1), layer, "self_attn.o_proj")


def _projected(x, layer, name):
    return x @ layer[f"{name}.weight"].T + layer.get(f"{name}.bias", 0)


def _norm(x, weight, config):
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + config["rms_norm_eps"]) * weight


def _rotated(x, frequencies):
    """Pairs of halves [heads, tokens, dim] turned by their positions."""
    angles = np.outer(np.arange(x.shape[1]), frequencies)
    one, other = np.split(x, 2, -1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([one * cos - other * sin, other * cos + one * sin], -1)
