"""Tiny Qwen2-VL models in torch by transformers, and what they make of tokens and pixels."""

import numpy as np
import torch
import transformers

IMAGE, START, END = 90, 92, 93
TEXT = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "depth": 2,
    "embed_dim": 32,
    "hidden_size": 64,
    "num_heads": 2,
    "mlp_ratio": 3,
    "patch_size": 4,
}
IDS = {"image_token_id": IMAGE, "video_token_id": 91, "vision_start_token_id": START, "vision_end_token_id": END}


def model(text=None, vision=None, **fields):
    """A model with random parameters, large enough that each counts in the logits."""
    torch.manual_seed(0)
    config = transformers.Qwen2VLConfig(
        text_config={**TEXT, **(text or {})}, vision_config={**VISION, **(vision or {})}, **IDS, **fields
    )
    made = transformers.Qwen2VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # biases and norms start as constants, which would hide a mix-up
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def patches(config, pixels):
    """Pixels [channels, height, width] as transformers' processor flattens them, and their grid."""
    patch, merge, frames = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
    channels, rows, columns = pixels.shape[0], *(side // patch for side in pixels.shape[1:])
    cut = pixels.reshape(channels, rows // merge, merge, patch, columns // merge, merge, patch)
    cut = cut.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    cut = np.broadcast_to(cut, (*cut.shape[:5], frames, *cut.shape[6:]))
    return torch.tensor(cut.reshape(rows * columns, -1)), torch.tensor([[1, rows, columns]])


def embeddings(made, pixels):
    """[tokens, hidden] of one image."""
    flat, grid = patches(made.config.vision_config, pixels)
    with torch.no_grad():
        return made.model.visual(flat, grid_thw=grid).pooler_output.float().numpy()


def logits(made, ids, images=()):
    """Logits [tokens, vocab] of one row by itself, without a cache."""
    tokens = torch.tensor([ids])
    seen = {}
    if images:
        flat, grids = zip(*(patches(made.config.vision_config, pixels) for pixels in images), strict=True)
        seen = {"pixel_values": torch.cat(flat), "image_grid_thw": torch.cat(grids)}
        seen["mm_token_type_ids"] = (tokens == IMAGE).int()
    made.model.rope_deltas = None
    with torch.no_grad():
        return made(input_ids=tokens, **seen).logits[0].float().numpy()
