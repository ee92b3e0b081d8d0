"""Configurations of models that see: what older and newer spellings mean, and what is refused by name."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import seeing
import transformers
from oracles import records

from aot.errors import InputError
from aot.models.families import family

PROCESSORS: dict[str, dict[str, Any]] = {
    "llava": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 56}, "crop_size": 56},
    "qwen2_vl": {"image_processor_type": "Qwen2VLImageProcessor"},
}
CONFIGS: dict[str, dict[str, Any]] = {"llava": seeing.LLAVA, "qwen2_vl": seeing.QWEN2_VL}


def with_fields(config: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """A configuration with some fields changed, a dot in a name leading into a mapping."""
    made = copy.deepcopy(config)
    for name, value in fields.items():
        *path, last = name.split(".")
        place = made
        for step in path:
            place = place.setdefault(step, {})
        place[last] = value
    return made


def read(name: str, fields: dict[str, Any] | None = None, **processor: Any) -> family.ModelConfig:
    return family.read_model_config(with_fields(CONFIGS[name], fields or {}), PROCESSORS[name] | processor)


def faults(name: str, fields: dict[str, Any], **processor: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        read(name, fields, **processor)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(("name", "kind"), [("llava", "Llava"), ("qwen2_vl", "Qwen2VL")])
def test_a_saved_config_means_the_same_as_the_fields_it_was_made_from(name: str, kind: str, tmp_path: Path) -> None:
    given = {"model_type": name, **records.read(f"{name}/tied").fields}
    made = getattr(transformers, f"{kind}Config")(**copy.deepcopy(given))
    made.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text()) | {"architectures": CONFIGS[name]["architectures"]}

    assert given["tie_word_embeddings"]
    assert family.read_model_config(saved, PROCESSORS[name]) == family.read_model_config(given, PROCESSORS[name])


def test_the_text_of_qwen2_vl_may_lie_among_the_other_fields_or_in_a_mapping_with_newer_names() -> None:
    flat = seeing.QWEN2_VL | {"tie_word_embeddings": True, "rope_theta": 5e5}
    rope = {"rope_theta": 5e5, "rope_type": "default", "mrope_section": [2, 3, 3]}
    text = {**seeing.TEXT, "model_type": "qwen2_vl_text", "tie_word_embeddings": True, "rope_parameters": rope}
    moved = [*seeing.TEXT, "rope_scaling"]
    nested = {name: value for name, value in seeing.QWEN2_VL.items() if name not in moved} | {"text_config": text}

    one, other = (family.read_model_config(fields, PROCESSORS["qwen2_vl"]) for fields in (flat, nested))

    assert one == other
    assert one.decoder.rope_theta == 5e5
    assert one.decoder.tie_embeddings


@pytest.mark.parametrize(
    ("name", "older", "newer"),
    [
        ("llava", {"image_token_index": 7}, {"image_token_index": None, "image_token_id": 7}),
        ("llava", {"vision_feature_layer": 0}, {"vision_feature_layer": [0]}),
        ("llava", {"vision_feature_layer": -2}, {"vision_feature_layer": 2}),
        ("llava", {"text_config.tie_word_embeddings": True}, {"tie_word_embeddings": True}),
        ("llava", {"text_config.rope_theta": 5e5}, {"text_config.rope_parameters": {"rope_theta": 5e5}}),
        ("qwen2_vl", {"vision_config.in_chans": 3}, {"vision_config.in_channels": 3}),
        ("qwen2_vl", {"vision_config.spatial_patch_size": 14}, {}),
        ("qwen2_vl", {"rope_scaling.rope_type": "default"}, {"rope_scaling.type": "mrope"}),
    ],
)
def test_older_names_of_fields_mean_the_same(name: str, older: dict[str, Any], newer: dict[str, Any]) -> None:
    dropped = [field for field, value in newer.items() if value is None]
    config = with_fields(CONFIGS[name], newer)
    kept = {field: value for field, value in config.items() if field not in dropped}

    assert read(name, older) == family.read_model_config(kept, PROCESSORS[name])


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_absent_fields_of_llava_default_as_in_transformers_classes(kind: str) -> None:
    given = {"model_type": kind} | ({"vocab_size": 32064} if kind == "llama" else {})  # its own has no image token
    made = transformers.LlavaConfig(text_config=dict(given), vision_config={"model_type": "clip_vision_model"})

    config = family.read_model_config(
        {"model_type": "llava", "text_config": given, "vision_config": {}},
        {"size": {"shortest_edge": 224}},
    )

    text, vision = made.text_config, made.vision_config
    decoder, tower = config.decoder, config.encoder.tower
    assert decoder.vocab_size == text.vocab_size
    assert (decoder.hidden_size, decoder.intermediate_size) == (text.hidden_size, text.intermediate_size)
    assert (decoder.num_layers, decoder.num_heads) == (text.num_hidden_layers, text.num_attention_heads)
    assert (decoder.num_kv_heads, decoder.rms_norm_eps) == (text.num_key_value_heads, text.rms_norm_eps)
    assert (decoder.max_positions, decoder.rope_theta) == (
        text.max_position_embeddings,
        text.rope_parameters["rope_theta"],
    )
    assert (tower.width, tower.inner, tower.heads) == (
        vision.hidden_size,
        vision.intermediate_size,
        vision.num_attention_heads,
    )
    assert (config.encoder.layers, tower.depth) == (vision.num_hidden_layers, vision.num_hidden_layers - 1)
    assert (tower.patch, tower.grid) == (vision.patch_size, vision.image_size // vision.patch_size)
    assert (tower.activation, tower.epsilon) == (vision.hidden_act, vision.layer_norm_eps)
    assert config.encoder.images.token == made.image_token_id
    assert (tower.projector_activation, tower.projector_bias) == (made.projector_hidden_act, True)


def test_absent_fields_of_qwen2_vl_default_as_in_transformers_classes() -> None:
    made = transformers.Qwen2VLConfig()
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    given = {size: getattr(made.text_config, size) for size in (*sizes, "max_position_embeddings")}

    config = family.read_model_config(
        {"model_type": "qwen2_vl", "text_config": given, "vision_config": {"hidden_size": 8192}}, {}
    )

    text, vision = made.text_config, made.vision_config
    decoder, encoder = config.decoder, config.encoder
    assert (decoder.num_kv_heads, decoder.rms_norm_eps) == (text.num_key_value_heads, text.rms_norm_eps)
    assert decoder.rope_theta == text.rope_parameters["rope_theta"]
    assert decoder.mrope == (16, 24, 24)
    assert decoder.tie_embeddings == made.tie_word_embeddings
    assert (encoder.depth, encoder.width, encoder.num_heads) == (vision.depth, vision.embed_dim, vision.num_heads)
    assert encoder.mlp_width == vision.embed_dim * vision.mlp_ratio
    assert (encoder.patch_size, encoder.merge_size) == (vision.patch_size, vision.spatial_merge_size)
    assert encoder.temporal_patch_size == vision.temporal_patch_size
    assert encoder.images.token == made.image_token_id
    assert encoder.images.before == (made.vision_start_token_id,)
    assert encoder.images.after == (made.vision_end_token_id,)


LLAVA: list[tuple[dict[str, Any], str]] = [
    ({"quantization_config": {"bits": 4}}, "quantization_config: {'bits': 4} is not implemented, only None is"),
    ({"text_config": 3}, "text_config: must be a mapping, got 3"),
    ({"text_config.model_type": "mistral"}, "text_config.model_type: must be one of 'llama', 'qwen2', got 'mistral'"),
    ({"text_config.hidden_act": "gelu"}, "text_config: hidden_act: 'gelu' is not implemented, only 'silu' is"),
    ({"text_config.rope_scaling": {"type": "yarn"}}, "text_config: rope_scaling.rope_type: 'yarn' is not implemented"),
    ({"text_config.vocab_size": 0}, "text_config: vocab_size: must be a positive integer, got 0"),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings: must be true or false, got 'no'"),
    ({"image_token_index": 128}, "image_token_index: must be an integer below 128, got 128"),
    ({"image_token_index": True}, "image_token_index: must be an integer below 128, got True"),
    ({"vision_config": "clip"}, "vision_config: must be a mapping, got 'clip'"),
    ({"vision_config.model_type": "siglip"}, "vision_config.model_type: must be one of 'clip_vision_model', got"),
    ({"vision_config.num_channels": 4}, "vision_config.num_channels: 4 is not implemented, only 3 is"),
    ({"vision_config.num_attention_heads": 3}, "vision_config.num_attention_heads: must divide hidden_size, 32, got 3"),
    ({"vision_config.patch_size": 57}, "vision_config.patch_size: must not be above image_size, 56, got 57"),
    ({"vision_config.patch_size": [14, 14]}, "vision_config.patch_size: must be a positive integer, got [14, 14]"),
    ({"vision_config.num_hidden_layers": 10**9}, "vision_config.num_hidden_layers: must be a positive integer of at"),
    ({"vision_config.hidden_act": "tanh"}, "vision_config.hidden_act: must be one of 'quick_gelu', "),
    ({"vision_config.hidden_act": ["gelu"]}, "vision_config.hidden_act: must be one of 'quick_gelu', "),
    ({"vision_config.layer_norm_eps": 0}, "vision_config.layer_norm_eps: must be a number above 0, got 0"),
    ({"vision_feature_layer": [-2, -1]}, "vision_feature_layer: [-2, -1] is not implemented, only a single layer is"),
    ({"vision_feature_layer": 4}, "vision_feature_layer: must be an integer from -4 to 3, got 4"),
    ({"vision_feature_layer": -5}, "vision_feature_layer: must be an integer from -4 to 3, got -5"),
    ({"vision_feature_layer": True}, "vision_feature_layer: must be an integer from -4 to 3, got True"),
    ({"vision_feature_select_strategy": "cls"}, "vision_feature_select_strategy: must be one of 'default', 'full'"),
    ({"projector_hidden_act": None}, "projector_hidden_act: must be one of 'quick_gelu', "),
    ({"multimodal_projector_bias": 1}, "multimodal_projector_bias: must be true or false, got 1"),
]
QWEN2_VL: list[tuple[dict[str, Any], str]] = [
    ({"quantization_config": {"bits": 4}}, "quantization_config: {'bits': 4} is not implemented, only None is"),
    ({"text_config": 3}, "text_config: must be a mapping, got 3"),
    ({"hidden_act": "gelu"}, "hidden_act: 'gelu' is not implemented, only 'silu' is"),
    ({"rope_scaling.type": "yarn"}, "rope_scaling.rope_type: 'yarn' is not implemented, only 'default', 'linear' and"),
    ({"rope_scaling.type": "dynamic"}, "rope_scaling.rope_type: 'dynamic' is not implemented"),
    ({"rope_scaling": [1]}, "rope_scaling: must be one flat mapping for all layers, got [1]"),
    ({"rope_scaling.mrope_interleaved": True}, "rope_scaling.mrope_interleaved: True is not implemented, only False"),
    ({"rope_scaling.mrope_section": [2, 3, 4]}, "rope_scaling.mrope_section: must be 3 positive integers that add up"),
    ({"rope_scaling.mrope_section": [4, 4]}, "rope_scaling.mrope_section: must be 3 positive integers that add up to"),
    ({"rope_scaling.mrope_section": [2.0, 3, 3]}, "rope_scaling.mrope_section: must be 3 positive integers that add"),
    (
        {"head_dim": 32, "rope_scaling.mrope_section": [4, 6, 6]},
        "hidden_size: must be num_attention_heads, 4, heads of",
    ),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings: must be true or false, got 'no'"),
    ({"image_token_id": 128}, "image_token_id: must be an integer below 128, got 128"),
    ({"vision_start_token_id": -1}, "vision_start_token_id: must be an integer below 128, got -1"),
    ({"vision_config": "vit"}, "vision_config: must be a mapping, got 'vit'"),
    ({"vision_config.hidden_act": "gelu"}, "vision_config.hidden_act: 'gelu' is not implemented, only 'quick_gelu' is"),
    ({"vision_config.hidden_size": 32}, "vision_config.hidden_size: must be that of the text, 64, got 32"),
    ({"vision_config.num_heads": 3}, "vision_config.embed_dim: must be a multiple of 4 x num_heads, 12, got 32"),
    ({"vision_config.in_channels": 4}, "vision_config.in_channels: 4 is not implemented, only 3 is"),
    (
        {"vision_config.in_channels": 3, "vision_config.in_chans": 4},
        "vision_config.in_chans: must be in_channels, 3, g",
    ),
    ({"vision_config.spatial_patch_size": 7}, "vision_config.spatial_patch_size: must be patch_size, 14, got 7"),
    ({"vision_config.mlp_ratio": 0}, "vision_config.mlp_ratio: must be a number above 0, got 0"),
    (
        {"vision_config.rope_parameters": {"rope_type": "linear"}},
        "vision_config.rope_parameters.rope_type: 'linear' is",
    ),
    ({"vision_config.rope_parameters": 3}, "vision_config.rope_parameters: must be a mapping, got 3"),
]


@pytest.mark.parametrize(
    ("name", "fields", "text"), [("llava", *case) for case in LLAVA] + [("qwen2_vl", *case) for case in QWEN2_VL]
)
def test_what_is_not_implemented_is_a_named_error(name: str, fields: dict[str, Any], text: str) -> None:
    found = faults(name, fields)

    assert found[0].startswith(f"config.json: {text}")
    assert len(found) == 1


SHARED: list[tuple[dict[str, Any], str]] = [
    ({"image_processor_type": "SiglipImageProcessor"}, "image_processor_type: must be one of '"),
    ({"do_resize": False}, "do_resize: False is not implemented, only True is"),
    ({"do_convert_rgb": False}, "do_convert_rgb: False is not implemented, only True is"),
    ({"do_normalize": "yes"}, "do_normalize: must be true or false, got 'yes'"),
    ({"rescale_factor": 0}, "rescale_factor: must be a number above 0, got 0"),
    ({"resample": 6}, "resample: must be the number of a filter, one of {0: 'nearest'"),
    ({"image_mean": [0, 0]}, "image_mean: must be a number or a list of 3, got [0, 0]"),
    ({"image_std": [1, 0, 1]}, "image_std: must be above 0, got [1.0, 0.0, 1.0]"),
]
OWN: list[tuple[str, dict[str, Any], str]] = [
    ("llava", {"do_pad": True}, "do_pad: True is not implemented, only False is"),
    ("llava", {"size": {"shortest_edge": 28}}, "crop_size: must be the size that pictures are resized to, (28, 28)"),
    ("llava", {"crop_size": {"height": 28, "width": 56}}, "crop_size: must be the size that pictures are resized to"),
    ("llava", {"do_center_crop": False}, "do_center_crop: False is not implemented beside shortest_edge, only True is"),
    ("llava", {"size": {"shortest_edge": 56, "longest_edge": 99}}, "size.longest_edge: 99 is not implemented"),
    ("qwen2_vl", {"patch_size": 16}, "patch_size: must be that of vision_config in the configuration, 14, got 16"),
    ("qwen2_vl", {"merge_size": 1}, "merge_size: must be that of vision_config in the configuration, 2, got 1"),
    ("qwen2_vl", {"temporal_patch_size": 1}, "temporal_patch_size: must be that of vision_config in the"),
]


@pytest.mark.parametrize(("name", "processor", "text"), [(name, *case) for name in CONFIGS for case in SHARED] + OWN)
def test_what_a_processor_does_otherwise_is_a_named_error(name: str, processor: dict[str, Any], text: str) -> None:
    found = faults(name, {}, **processor)

    assert found[0].startswith(f"preprocessor_config.json: {text}")
    assert len(found) == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_all_faults_are_reported_at_once(name: str) -> None:
    size = "text_config.vocab_size" if name == "llava" else "vocab_size"
    norm = {"hidden_act": "tanh", "num_attention_heads" if name == "llava" else "num_heads": 0}

    found = faults(name, {size: 0, "vision_config": norm, "quantization_config": 8}, do_resize=False, image_mean="x")

    places = [line.split(": must")[0].split(": 8")[0].split(": False")[0].split(": 'tanh'")[0] for line in found]
    head = "num_attention_heads" if name == "llava" else "num_heads"
    assert {place.replace("text_config: ", "") for place in places} == {
        "config.json: vocab_size",
        "config.json: quantization_config",
        "config.json: vision_config.hidden_act",
        f"config.json: vision_config.{head}",
        "preprocessor_config.json: do_resize",
        "preprocessor_config.json: image_mean",
    }


def test_an_empty_text_of_qwen2_vl_misses_its_sizes() -> None:
    found = faults("qwen2_vl", {"text_config": {}})

    assert sum(": text_config: " in line and "missing" in line for line in found) == len(found) == 6


@pytest.mark.parametrize("name", CONFIGS)
def test_without_a_preprocessor_the_file_is_missed_by_name(name: str) -> None:
    with pytest.raises(InputError, match=r"^here/preprocessor_config\.json: missing; [^\n]*$"):
        family.read_model_config(CONFIGS[name], None, "here/config.json")
