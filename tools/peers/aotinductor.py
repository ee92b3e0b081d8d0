"""PyTorch's AOTInductor: prefill and decode exported with static caches, as two packages over one set of weights.

The decoder is written out below, as exporting transformers' own would drag in its caches; weights lie in a file of
their own and are handed to both packages, which otherwise hold a copy each.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers import measured

REQUIREMENTS = ("torch==2.13.0", "safetensors==0.8.0", "numpy==2.4.6")
VARIANTS = {"float32": ("AOTInductor",), "bfloat16": ("AOTInductor",)}


def prepare(dtype: str, checkpoint: Path, home: Path) -> None:
    """Exports and compiles both phases, and stores the weights beside them."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(measured.THREADS)
    config = json.loads((checkpoint / "config.json").read_text())
    weights = {name.removeprefix("model."): w for name, w in load_file(checkpoint / "model.safetensors").items()}
    model = _decoder(config).to(getattr(torch, dtype))
    model.load_state_dict(weights, strict=True, assign=True)
    cache = _cache(config, dtype)
    for phase, length in {"prefill": measured.PROMPT, "decode": 1}.items():
        inputs = (torch.ones(1, length, dtype=torch.int64), torch.arange(length), cache)
        with torch.no_grad():
            exported = torch.export.export(model.eval(), inputs, strict=False)
        torch._inductor.aoti_compile_and_package(
            exported,
            package_path=str(home / f"{phase}.pt2"),
            inductor_configs={"aot_inductor.package_constants_in_so": False},
        )
    save_file(weights, home / "weights.safetensors")
    (home / "config.json").write_text(json.dumps(config))


def open(dtype: str, variant: str, home: Path, imported: Callable[[], None]) -> measured.Generate:
    import torch
    from safetensors.torch import load_file
    from torch._inductor import aoti_load_package

    imported()
    torch.set_num_threads(measured.THREADS)
    config = json.loads((home / "config.json").read_text())
    weights = load_file(home / "weights.safetensors")
    prefill, decode = (aoti_load_package(str(home / f"{phase}.pt2")) for phase in ("prefill", "decode"))
    for program in (prefill, decode):
        program.load_constants(weights, check_full_update=True, user_managed=True)

    @torch.inference_mode()
    def generate(ids: list[int], count: int, emit: measured.Emit) -> None:
        cache = _cache(config, dtype)
        token = prefill(torch.tensor([ids]), torch.arange(len(ids)), cache)
        emit(int(token))
        for position in range(len(ids), len(ids) + count - 1):
            token = decode(token[:, None], torch.tensor([position]), cache)
            emit(int(token))

    return generate


def _cache(config: dict[str, Any], dtype: str) -> list[tuple[Any, Any]]:
    """Keys and values [batch, heads, capacity, head_dim] of each layer, empty."""
    import torch

    dim = config["hidden_size"] // config["num_attention_heads"]
    shape = (1, config["num_key_value_heads"], measured.CAPACITY, dim)
    empty = {"dtype": getattr(torch, dtype)}
    return [(torch.zeros(shape, **empty), torch.zeros(shape, **empty)) for _ in range(config["num_hidden_layers"])]


def _decoder(config: dict[str, Any]) -> Any:
    """Qwen2 by its checkpoint's names: tokens [batch, length] at positions [length] give the next token."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    hidden, dim = config["hidden_size"], config["hidden_size"] // config["num_attention_heads"]
    layer = _layer(config)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = nn.Embedding(config["vocab_size"], hidden)
            self.layers = nn.ModuleList(layer() for _ in range(config["num_hidden_layers"]))
            self.norm = nn.RMSNorm(hidden, config["rms_norm_eps"])

        def forward(self, tokens: Any, positions: Any, cache: list[tuple[Any, Any]]) -> Any:
            x = self.embed_tokens(tokens)
            angles = positions[:, None] * config["rope_theta"] ** (-torch.arange(0, dim, 2) / dim)
            angles = torch.cat((angles, angles), -1)
            turn = (angles.cos().to(x.dtype), angles.sin().to(x.dtype))
            for block, state in zip(self.layers, cache, strict=True):
                x = block(x, turn, positions, state)
            return F.linear(self.norm(x[:, -1]), self.embed_tokens.weight).argmax(-1)

    return Decoder()


def _layer(config: dict[str, Any]) -> Any:
    """The class of a layer."""
    from torch import nn

    hidden, attention, mlp = config["hidden_size"], _attention(config), _mlp(config)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn, self.mlp = attention(), mlp()
            self.input_layernorm = nn.RMSNorm(hidden, config["rms_norm_eps"])
            self.post_attention_layernorm = nn.RMSNorm(hidden, config["rms_norm_eps"])

        def forward(self, x: Any, *rest: Any) -> Any:
            x = x + self.self_attn(self.input_layernorm(x), *rest)
            return x + self.mlp(self.post_attention_layernorm(x))

    return Layer


def _attention(config: dict[str, Any]) -> Any:
    """The class of an attention that keeps keys and values in a cache that it is given."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    hidden, heads, kv_heads = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    dim = hidden // heads

    def rotate(x: Any, cos: Any, sin: Any) -> Any:
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat((-b, a), -1) * sin

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = nn.Linear(hidden, heads * dim)
            self.k_proj, self.v_proj = nn.Linear(hidden, kv_heads * dim), nn.Linear(hidden, kv_heads * dim)
            self.o_proj = nn.Linear(heads * dim, hidden, bias=False)

        def forward(self, x: Any, turn: tuple[Any, Any], positions: Any, cache: tuple[Any, Any]) -> Any:
            queries, keys, values = (
                project(x).unflatten(-1, (-1, dim)).transpose(1, 2)
                for project in (self.q_proj, self.k_proj, self.v_proj)
            )
            queries, keys = rotate(queries, *turn), rotate(keys, *turn)
            cache[0].index_copy_(2, positions, keys)
            cache[1].index_copy_(2, positions, values)
            if x.shape[1] > 1:
                mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
            else:
                seen = torch.arange(measured.CAPACITY) <= positions[:, None]
                mixed = F.scaled_dot_product_attention(queries, *cache, attn_mask=seen, enable_gqa=True)
            return self.o_proj(mixed.transpose(1, 2).flatten(2))

    return Attention


def _mlp(config: dict[str, Any]) -> Any:
    """The class of a gated feed-forward."""
    from torch import nn
    from torch.nn import functional as F

    hidden, inner = config["hidden_size"], config["intermediate_size"]

    class MLP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj = (nn.Linear(hidden, inner, bias=False) for _ in range(2))
            self.down_proj = nn.Linear(inner, hidden, bias=False)

        def forward(self, x: Any) -> Any:
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    return MLP


if __name__ == "__main__":
    measured.main(prepare, open, ("torch",))
