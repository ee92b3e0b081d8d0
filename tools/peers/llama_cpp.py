"""llama.cpp through llama-cpp-python, built for this machine by pip; weights mapped from a GGUF file.

The file has no vocabulary, which spares llama.cpp the reading of one.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers import measured

REQUIREMENTS = (
    "llama-cpp-python==0.3.36",
    "gguf==0.19.0",
    "safetensors==0.8.0",
    "ml_dtypes==0.6.0",
    "numpy==2.4.6",
)
VARIANTS = {"float32": ("llama.cpp",), "bfloat16": ("llama.cpp",), "int8": ("llama.cpp q8_0",)}

_TYPES = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0"}
_OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def prepare(dtype: str, checkpoint: Path, home: Path) -> None:
    """Writes the weights as GGUF: matrices in the dtype, vectors in float32, as llama.cpp's own converter does."""
    import gguf
    import ml_dtypes  # noqa: F401, by it numpy knows bfloat16
    import numpy as np
    from safetensors import safe_open

    writer = gguf.GGUFWriter(home / "model.gguf", "qwen2", use_temp_file=True)
    _describe(writer, json.loads((checkpoint / "config.json").read_text()))
    kind = gguf.GGMLQuantizationType[_TYPES[dtype]]
    with safe_open(checkpoint / "model.safetensors", "numpy") as tensors:
        for name in tensors.keys():  # noqa: SIM118, it is no mapping
            weight = tensors.get_tensor(name).astype(np.float32)
            if weight.ndim == 2:
                writer.add_tensor(_name(name), gguf.quants.quantize(weight, kind), raw_dtype=kind)
            else:
                writer.add_tensor(_name(name), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(name: str) -> str:
    """What GGUF calls a tensor of Hugging Face's."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    _, _, layer, rest = name.split(".", 3)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_BLOCK[module]}.{kind}"


def _describe(writer: Any, config: dict[str, Any]) -> None:
    """The configuration in GGUF's words."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")


def open(dtype: str, variant: str, home: Path, imported: Callable[[], None]) -> measured.Generate:
    from llama_cpp import Llama, llama_cpp

    imported()
    if dtype == "int8":  # repacked for AMX its product crashes: github.com/ggml-org/llama.cpp/issues/20824
        defaults = llama_cpp.llama_model_default_params()
        defaults.use_extra_bufts = False  # `--no-repack` of its command line; Llama has no argument for it
        llama_cpp.llama_model_default_params = lambda: defaults
    threads = {"n_threads": measured.THREADS, "n_threads_batch": measured.THREADS}
    model = Llama(str(home / "model.gguf"), n_ctx=measured.CAPACITY, n_batch=measured.PROMPT, verbose=False, **threads)

    def generate(ids: list[int], count: int, emit: measured.Emit) -> None:
        model.reset()
        for _ in range(count):
            model.eval(ids)
            ids = [model.sample(temp=0.0)]
            emit(ids[0])

    return generate


if __name__ == "__main__":
    blocks = {"llama.cpp q8_0": 8.5}  # 32 weights of 8 bits and a scale of 16
    measured.main(prepare, open, ("llama-cpp-python",), blocks)
