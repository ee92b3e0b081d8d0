"""Tiny LLaVA models in torch by transformers, and what they make of tokens and pixels."""

import torch
import transformers

IMAGE = 90
TEXT = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "patch_size": 4,
    "image_size": 16,
}


def model(kind="llama", text=None, vision=None, **fields):
    """A model with random parameters, large enough that each counts in the logits."""
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        text_config={"model_type": kind, **TEXT, **(text or {})},
        vision_config={**VISION, **(vision or {})},
        image_token_index=IMAGE,
        **fields,
    )
    made = transformers.LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # biases and norms start as constants, which would hide a mix-up
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def embeddings(made, pixels):
    """[tokens, hidden] of one image, of any size."""
    with torch.no_grad():
        seen = torch.tensor(pixels)[None].to(made.dtype)
        return made.model.get_image_features(seen, **_chosen(made)).pooler_output[0].float().numpy()


def logits(made, ids, images=()):
    """Logits [tokens, vocab] of one row by itself, without a cache; its images may differ in size."""
    tokens = torch.tensor([ids])
    with torch.no_grad():
        x = made.get_input_embeddings()(tokens)
        if images:
            seen = torch.cat([torch.tensor(embeddings(made, image)) for image in images]).to(x.dtype)
            x[0, torch.where(tokens[0] == IMAGE)[0][: len(seen)]] = seen  # later ones were generated
        return made(inputs_embeds=x).logits[0].float().numpy()


def _chosen(made):
    """What the model's own forward takes from the configuration, and the interpolation of its position table."""
    config = made.config
    return {
        "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "interpolate_pos_encoding": True,
        "return_dict": True,
    }
