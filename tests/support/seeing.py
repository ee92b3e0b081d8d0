"""Checkpoints of models that see, as configurations without weights, and the plans of manifests over them."""

import json
from pathlib import Path

from aot import plan
from aot.plan import Plan

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 8192,
    "torch_dtype": "float32",
}
# Squares of 28 pixels, and a token on either side of an image, as in all published Qwen2-VL.
QWEN2_VL = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    **TEXT,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "image_token_id": 90,
    "video_token_id": 91,
    "vision_start_token_id": 92,
    "vision_end_token_id": 93,
    "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 14},
}
# Squares of 14 pixels, no token around an image, one beside them; pictures are cropped.
LLAVA = {
    "architectures": ["LlavaForConditionalGeneration"],
    "image_token_index": 90,
    "text_config": {"model_type": "llama", **TEXT},
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "patch_size": 14,
        "image_size": 56,
    },
    "vision_feature_select_strategy": "full",
}
_PREPROCESSORS = {"qwen2_vl": {"image_processor_type": "Qwen2VLImageProcessor"}, "llava": {"crop_size": 56, "size": 56}}


def write(directory: Path, config: dict[str, object] = QWEN2_VL) -> Path:
    """The directory, now with a checkpoint `sees`."""
    family = "llava" if config is LLAVA else "qwen2_vl"
    (directory / "sees").mkdir()
    (directory / "sees/config.json").write_text(json.dumps(config))
    (directory / "sees/preprocessor_config.json").write_text(json.dumps(_PREPROCESSORS[family]))
    return directory


def resolved(directory: Path, precompile: str) -> Plan:
    """The plan of a manifest over the checkpoint, with these lists on its third line."""
    (directory / "a.yaml").write_text(f"name: a\nmodel: {{checkpoint: sees}}\nprecompile: {{{precompile}}}\n")
    return plan.resolve(plan.read_manifest(directory / "a.yaml"))
