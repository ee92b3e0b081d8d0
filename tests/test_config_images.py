"""Configurations of models that see: what each field means, and what is not implemented."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import seeing

from aot.errors import InputError
from aot.models import family

BASES = {"qwen2_vl": seeing.QWEN2_VL, "llava": seeing.LLAVA}


def changed(fields: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The fields with another value at a path; without what the path names where the value is `...`."""
    made = copy.deepcopy(dict(fields))
    *above, last = path.split(".")
    inner = made
    for name in above:
        inner = inner.setdefault(name, {})
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return made


def read(name: str, config: Mapping[str, Any] = {}, preprocessor: Mapping[str, Any] = {}) -> family.ModelConfig:
    """The model of a base's configuration with some fields otherwise, by path."""
    fields, prepared = dict(BASES[name]), dict(seeing._PREPROCESSORS[name])
    for path, value in config.items():
        fields = changed(fields, path, value)
    for path, value in preprocessor.items():
        prepared = changed(prepared, path, value)
    return family.read(fields, prepared)


def faults(name: str, config: Mapping[str, Any] = {}, preprocessor: Mapping[str, Any] = {}) -> list[str]:
    with pytest.raises(InputError) as caught:
        read(name, config, preprocessor)
    return str(caught.value).splitlines()


CONFIG = "config.json: "
PREPROCESSOR = "preprocessor_config.json: "


@pytest.mark.parametrize(
    ("name", "path", "value", "said"),
    [
        ("qwen2_vl", "quantization_config", {"bits": 4}, "quantization_config: {'bits': 4} is not implemented"),
        ("qwen2_vl", "image_token_id", 128, "image_token_id: must be an integer below 128, got 128"),
        ("qwen2_vl", "vision_start_token_id", "a", "vision_start_token_id: must be an integer below 128, got 'a'"),
        ("qwen2_vl", "vision_config", 3, "vision_config: must be a mapping, got 3"),
        ("qwen2_vl", "vision_config.hidden_act", "gelu", "vision_config.hidden_act: 'gelu' is not implemented"),
        (
            "qwen2_vl",
            "vision_config.hidden_size",
            32,
            "vision_config.hidden_size: must be that of the text, 64, got 32",
        ),
        ("qwen2_vl", "vision_config.embed_dim", 36, "vision_config.embed_dim: must be a multiple of 4 x num_heads, 8"),
        (
            "qwen2_vl",
            "vision_config.depth",
            0,
            "vision_config.depth: must be a positive integer of at most 10000, got 0",
        ),
        ("qwen2_vl", "vision_config.in_channels", 1, "vision_config.in_channels: 1 is not implemented, only 3 is"),
        (
            "qwen2_vl",
            "vision_config.spatial_patch_size",
            16,
            "vision_config.spatial_patch_size: must be patch_size, 14",
        ),
        ("qwen2_vl", "vision_config.rope_parameters", {"rope_type": "yarn"}, "vision_config.rope_parameters.rope_type"),
        ("qwen2_vl", "rope_scaling.mrope_section", [8], "rope_scaling.mrope_section: must be 3 positive integers"),
        ("qwen2_vl", "rope_scaling.mrope_section", [2, 3, 4], "add up to half the head dimension, 8, got [2, 3, 4]"),
        ("qwen2_vl", "rope_scaling", 3, "rope_scaling"),
        ("qwen2_vl", "rope_scaling.type", "spiral", "rope_scaling"),
        ("qwen2_vl", "hidden_act", "relu", "hidden_act: 'relu' is not implemented"),
        ("llava", "quantization_config", {"bits": 4}, "quantization_config: {'bits': 4} is not implemented"),
        ("llava", "image_token_index", -1, "image_token_index: must be an integer below 128, got -1"),
        ("llava", "text_config.model_type", "gemma", "text_config.model_type: must be one of 'llama', 'qwen2'"),
        ("llava", "text_config.hidden_size", 0, "text_config: hidden_size: must be a positive integer"),
        ("llava", "text_config", [], "text_config: must be a mapping, got []"),
        ("llava", "vision_config.model_type", "siglip", "vision_config.model_type: must be one of 'clip_vision_model'"),
        ("llava", "vision_config.num_channels", 1, "vision_config.num_channels: 1 is not implemented, only 3 is"),
        ("llava", "vision_config.num_attention_heads", 3, "num_attention_heads: must divide hidden_size, 32, got 3"),
        ("llava", "vision_config.patch_size", 57, "vision_config.patch_size: must not be above image_size, 56, got 57"),
        ("llava", "vision_config.hidden_act", "tanh", "vision_config.hidden_act: must be one of 'quick_gelu'"),
        ("llava", "vision_feature_select_strategy", "most", "vision_feature_select_strategy: must be one of 'default'"),
        ("llava", "vision_feature_layer", [-2, -1], "vision_feature_layer: [-2, -1] is not implemented, only a single"),
        ("llava", "vision_feature_layer", 4, "vision_feature_layer: must be an integer from -4 to 3, got 4"),
        ("llava", "projector_hidden_act", "tanh", "projector_hidden_act: must be one of 'quick_gelu'"),
        ("llava", "multimodal_projector_bias", 1, "multimodal_projector_bias: must be true or false, got 1"),
    ],
)
def test_a_field_that_is_wrong_or_not_implemented_is_named(name: str, path: str, value: Any, said: str) -> None:
    (fault,) = faults(name, {path: value})

    assert fault.startswith(CONFIG)
    assert said in fault


@pytest.mark.parametrize(
    ("name", "path", "value", "said"),
    [
        ("qwen2_vl", "image_processor_type", "SiglipImageProcessor", "image_processor_type: 'SiglipImageProcessor' is"),
        ("qwen2_vl", "patch_size", 16, "patch_size: must be that of vision_config in the configuration, 14, got 16"),
        ("qwen2_vl", "merge_size", 4, "merge_size: must be that of vision_config in the configuration, 2, got 4"),
        ("qwen2_vl", "image_std", [1, 1, 0], "image_std: must be above 0, got [1.0, 1.0, 0.0]"),
        ("qwen2_vl", "image_mean", [1, 1], "image_mean: must be a number or a list of 3, got [1, 1]"),
        ("qwen2_vl", "resample", 9, "resample: must be the number of a filter"),
        ("qwen2_vl", "rescale_factor", 0, "rescale_factor: must be a number above 0, got 0"),
        ("llava", "image_processor_type", "ViTImageProcessor", "image_processor_type: must be one of 'CLIPImage"),
        ("llava", "do_resize", False, "do_resize: False is not implemented, only True is"),
        ("llava", "do_pad", True, "do_pad: True is not implemented, only False is"),
        ("llava", "crop_size", 28, "crop_size: must be the size that pictures are resized to, (56, 56), got (28, 28)"),
        ("llava", "do_center_crop", False, "do_center_crop: False is not implemented beside shortest_edge"),
    ],
)
def test_a_processor_that_prepares_pictures_otherwise_is_named(name: str, path: str, value: Any, said: str) -> None:
    (fault,) = faults(name, preprocessor={path: value})

    assert fault.startswith(PREPROCESSOR)
    assert said in fault


@pytest.mark.parametrize("name", BASES)
def test_all_faults_are_reported_at_once(name: str) -> None:
    config = {"quantization_config": {}, "vision_config.patch_size": 0, "vision_config.hidden_act": "tanh"}

    found = faults(name, config, {"image_std": 0, "resample": "bicubic"})

    assert len(found) == 5


def test_fields_of_older_and_newer_releases_mean_the_same() -> None:
    newer = {name: value for name, value in seeing.QWEN2_VL.items() if name not in seeing.TEXT | {"rope_scaling": 0}}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    newer = {**newer, "text_config": {**seeing.TEXT, "rope_parameters": rope, "model_type": "qwen2_vl_text"}}

    assert family.read(newer, {}) == read("qwen2_vl")
    assert read("qwen2_vl", {"vision_config.patch_size": ..., "vision_config.spatial_patch_size": 14}) == read(
        "qwen2_vl"
    )
    assert read("qwen2_vl", {"vision_config.in_chans": 3}) == read("qwen2_vl")
    assert read("llava", {"image_token_index": ..., "image_token_id": 90}) == read("llava")
    assert read("llava", {"vision_feature_layer": [-2]}) == read("llava")


def test_a_stretching_processor_of_llava_crops_nothing() -> None:
    stretched = {"size": {"height": 56, "width": 56}, "do_center_crop": False}
    found = read("llava", preprocessor=stretched).encoder
    assert found is not None

    assert found.images.fit == "stretch"
    assert [step["step"] for step in found.images.recipe] == ["convert", "resize", "rescale", "normalize"]
