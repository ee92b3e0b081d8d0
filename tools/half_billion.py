"""A Qwen2 checkpoint of half a billion random parameters, for measuring: half_billion.py DIRECTORY DTYPE."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from aot.models.families import names
from aot.models.families.config import DecoderConfig

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "dtype": "bfloat16",
    "eos_token_id": 151645,
}
_END = "<|im_end|>"


def write_checkpoint(directory: Path, dtype: str = "bfloat16", layers: int = CONFIG["num_hidden_layers"]) -> None:
    """Config, weights and a tokenizer; the weights have the same values, those of bfloat16, whatever the dtype."""
    config = {**CONFIG, "dtype": dtype, "num_hidden_layers": layers}
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    tokens = {"eos_token_id": CONFIG["eos_token_id"], "pad_token_id": CONFIG["eos_token_id"]}
    (directory / "generation_config.json").write_text(json.dumps(tokens))
    _write_tokenizer(directory)
    kept = {"bfloat16": ml_dtypes.bfloat16, "float32": np.float32}[dtype]
    tensors = {name: weight.astype(kept) for name, weight in _weights(config)}
    # transformers refuses a file that does not say whose format it is
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _weights(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Random weights in bfloat16 by their Hugging Face names; norms lie about one, as trained ones do."""
    rng = np.random.default_rng(0)
    for path, shape in names.parameter_shapes(DecoderConfig.from_huggingface(config)).items():
        weight = rng.standard_normal(shape, np.float32)
        weight = 1 + weight * 0.1 if path.endswith("norm") else weight * 0.02
        yield names.huggingface_name(path), weight.astype(ml_dtypes.bfloat16)


def _write_tokenizer(directory: Path) -> None:
    """One token for each byte and, so that every id has a text, one that no text gives for each other id."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]  # as GPT-2 spells bytes
    vocabulary = {name: i for i, name in enumerate(alphabet)}
    vocabulary |= {f"t{i}": i for i in range(len(alphabet), CONFIG["vocab_size"]) if i != CONFIG["eos_token_id"]}
    vocabulary[_END] = CONFIG["eos_token_id"]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": CONFIG["eos_token_id"], "content": _END, **flags}],
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": _END, "pad_token": _END}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    import sys

    write_checkpoint(Path(sys.argv[1]), sys.argv[2])
