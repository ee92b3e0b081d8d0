"""Transformers' models in torch: what they make of tokens and pixels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]


@torch.no_grad()
def logits(model: Any, ids: Sequence[int], images: Sequence[Array] = ()) -> Array:
    """[tokens, vocabulary] of one row by itself, without a cache; its images may differ in size."""
    tokens = torch.tensor([ids])
    given = _SEEN[model.config.model_type](model, tokens, images) if images else {"input_ids": tokens}
    if model.config.model_type == "qwen2_vl":
        model.model.rope_deltas = None  # of the row before
    return model(**given).logits[0].float().numpy()


@torch.no_grad()
def embeddings(model: Any, pixels: Array) -> Array:
    """[tokens, hidden] of one image [channels, height, width], of any size."""
    return _EMBEDDED[model.config.model_type](model, pixels).float().numpy()


def patches(config: Any, pixels: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels as the image processor of Qwen2-VL flattens them, and their grid."""
    patch, merge, frames = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
    channels, rows, columns = pixels.shape[0], *(side // patch for side in pixels.shape[1:])
    cut = pixels.reshape(channels, rows // merge, merge, patch, columns // merge, merge, patch)
    cut = cut.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    cut = np.broadcast_to(cut, (*cut.shape[:5], frames, *cut.shape[6:]))
    return torch.tensor(cut.reshape(rows * columns, -1)), torch.tensor([[1, rows, columns]])


def _embedded_by_llava(model: Any, pixels: Array) -> torch.Tensor:
    """With what the model's own forward takes from the configuration, and its position table interpolated."""
    config, seen = model.config, torch.tensor(pixels)[None].to(model.dtype)
    chosen = {
        "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
    }
    found = model.model.get_image_features(seen, **chosen, interpolate_pos_encoding=True, return_dict=True)
    return found.pooler_output[0]


def _embedded_by_qwen2_vl(model: Any, pixels: Array) -> torch.Tensor:
    flat, grid = patches(model.config.vision_config, pixels)
    return model.model.visual(flat, grid_thw=grid).pooler_output


def _seen_by_llava(model: Any, tokens: torch.Tensor, images: Sequence[Array]) -> dict[str, torch.Tensor]:
    """Embeddings of the tokens with those of images of different sizes in their places."""
    x = model.get_input_embeddings()(tokens)
    seen = torch.cat([_embedded_by_llava(model, image) for image in images]).to(x.dtype)
    places = torch.where(tokens[0] == model.config.image_token_id)[0]
    x[0, places[: len(seen)]] = seen  # later ones were generated
    return {"inputs_embeds": x}


def _seen_by_qwen2_vl(model: Any, tokens: torch.Tensor, images: Sequence[Array]) -> dict[str, torch.Tensor]:
    flat, grids = zip(*(patches(model.config.vision_config, pixels) for pixels in images), strict=True)
    kinds = (tokens == model.config.image_token_id).int()
    return {
        "input_ids": tokens,
        "pixel_values": torch.cat(flat),
        "image_grid_thw": torch.cat(grids),
        "mm_token_type_ids": kinds,
    }


_EMBEDDED = {"llava": _embedded_by_llava, "qwen2_vl": _embedded_by_qwen2_vl}
_SEEN = {"llava": _seen_by_llava, "qwen2_vl": _seen_by_qwen2_vl}
