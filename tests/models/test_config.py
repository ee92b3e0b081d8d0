import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from oracles import names as tensor_names
from oracles import records

from aot.errors import InputError
from aot.models.families import names, registry
from aot.models.families.config import DecoderConfig
from aot.models.families.family import read_model_config

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
ORACLE = records.read("configurations")
ARCHITECTURES = {f"{title}ForCausalLM": family for family, title in CLASSES.items()}
CASES = [(ARCHITECTURES[name], fields) for name, fields in ORACLE.given["variants"]]
RECORDED = [(*case, made) for case, made in zip(CASES, ORACLE.made["variants"], strict=True)]


def config_of(family: str, **fields: Any) -> dict[str, Any]:
    return SIZES | {"architectures": [f"{CLASSES[family]}ForCausalLM"], "model_type": family} | fields


def described(config: dict[str, Any]) -> registry.Description:
    return registry.describe_model(read_model_config(config), config)


def class_of(family: str, fields: dict[str, Any]) -> Any:
    """Transformers' configuration of the fields."""
    return getattr(transformers, f"{CLASSES[family]}Config")(**json.loads(json.dumps(SIZES | fields)))


def test_configurations_of_every_family_are_recorded() -> None:
    assert ORACLE.given["sizes"] == SIZES
    assert {family for family, _ in CASES} == set(CLASSES)


@pytest.mark.parametrize(("family", "fields", "recorded"), RECORDED)
def test_parameters_frequencies_and_windows_are_those_of_the_model_that_transformers_builds(
    family: str, fields: dict[str, Any], recorded: dict[str, Any]
) -> None:
    config = class_of(family, fields)
    decoder = DecoderConfig.from_huggingface(config_of(family, **fields))

    tied = {"lm_head.weight"} if decoder.tie_embeddings else set()
    state = tensor_names.unfolded(recorded["tensors"])
    expected = {name: tuple(shape) for name, shape in state.items() if name not in tied}
    found = {names.huggingface_name(path): shape for path, shape in names.parameter_shapes(decoder).items()}
    assert found == expected
    np.testing.assert_allclose(decoder.inverse_frequencies(), recorded["frequencies"], rtol=1e-6, atol=0)
    assert list(decoder.windows) == recorded["windows"]
    assert decoder.num_kv_heads == config.num_key_value_heads
    assert decoder.rms_norm_eps == config.rms_norm_eps
    assert decoder.max_positions == config.max_position_embeddings


@pytest.mark.parametrize(("family", "fields"), CASES)
def test_a_saved_config_means_the_same_as_the_fields_it_was_made_from(
    family: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    made = class_of(family, {**fields, "architectures": [f"{CLASSES[family]}ForCausalLM"]})
    made.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())

    assert DecoderConfig.from_huggingface(saved) == DecoderConfig.from_huggingface(config_of(family, **fields))


@pytest.mark.parametrize(("family", "heads"), [("llama", 64), ("mistral", 8), ("qwen2", 32), ("qwen3", 32)])
def test_absent_fields_default_as_in_the_class_of_the_family(family: str, heads: int) -> None:
    sizes = {name: SIZES[name] for name in SIZES if name != "num_key_value_heads"}
    sizes |= {"num_attention_heads": 64, "hidden_size": 1024}
    made = getattr(transformers, f"{CLASSES[family]}Config")(**sizes)
    decoder = DecoderConfig.from_huggingface(sizes | {"model_type": family})

    assert decoder.num_kv_heads == made.num_key_value_heads == heads
    assert decoder.head_dim == getattr(made, "head_dim", 1024 // 64)
    assert decoder.rms_norm_eps == made.rms_norm_eps
    assert decoder.rope_theta == made.rope_parameters["rope_theta"]
    assert decoder.tie_embeddings == made.tie_word_embeddings
    assert set(decoder.windows) == ({4096} if family == "mistral" else {None})


def test_frequencies_are_float32_values() -> None:
    frequencies = DecoderConfig.from_huggingface(config_of("llama", rope_scaling=LLAMA3)).inverse_frequencies()

    assert all(float(np.float32(value)) == value for value in frequencies)


def test_configs_are_values() -> None:
    fields = {"rope_scaling": LLAMA3, "rope_theta": 1e6}
    one = DecoderConfig.from_huggingface(config_of("llama", **fields))
    other = DecoderConfig.from_huggingface(dict(reversed(config_of("llama", **fields).items())))

    assert hash(one) == hash(other)
    assert one == other
    assert one != DecoderConfig.from_huggingface(config_of("llama"))


def test_a_family_may_stand_for_the_architecture() -> None:
    short = DecoderConfig.from_huggingface(SIZES | {"family": "qwen2"})

    assert short == DecoderConfig.from_huggingface(config_of("qwen2"))


def test_lists_may_be_tuples() -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    fields: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 8, "layer_types": kinds}
    frozen = fields | {"layer_types": tuple(kinds), "architectures": ("Qwen2ForCausalLM",)}

    expected = DecoderConfig.from_huggingface(config_of("qwen2", **fields))
    assert DecoderConfig.from_huggingface(config_of("qwen2", **frozen)) == expected


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"architectures": ["Qwen2ForCausalML"]}, "did you mean 'Qwen2ForCausalLM'?"),
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "unknown architecture 'GPT2LMHeadModel', supported are Llama",
        ),
        ({"architectures": None, "model_type": None}, "architectures: missing"),
        ({"model_type": "mistral"}, "disagree"),
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu' is not implemented"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: {'bits': 4} is not implemented"),
        ({"is_causal": False}, "is_causal: False is not implemented"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5 is not implemented"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters.partial_rotary_factor: 0.5"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling.rope_type: 'dynamic' is not implemented"),
        ({"rope_scaling": {"rope_type": "yarn", "type": "linear", "factor": 2.0}}, "'yarn' is not implemented"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters.rope_type: 'longrope' is not implemented"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters: must be one flat mapping"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling.factor: missing"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 0}},
            "rope_scaling.factor: must be a number above 0, got 0",
        ),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor: must be above low_freq_factor, 1.0"),
        ({"rope_theta": 0}, "rope_theta: must be a number of at least 1, got 0"),
        ({"rope_theta": 10**400}, "rope_theta: must be a number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps: must be a number above 0, got nan"),
        ({"hidden_size": "32"}, "hidden_size: must be a positive integer, got '32'"),
        ({"vocab_size": True}, "vocab_size: must be a positive integer, got True"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: must be a positive integer of at most 4000"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: must divide num_attention_heads, 4, got 3"),
        ({"head_dim": 7}, "head_dim: must be even and positive, got 7"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings: must be true or false, got 'no'"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types: ['sliding_attention', "),
        ({"layer_types": 3}, "layer_types: must be a list"),
        ({"layer_types": ["full_attention"]}, "layer_types: must have num_hidden_layers, 3, items, got 1"),
        ({"dtype": 16}, "dtype: must be the name of a type"),
    ],
)
def test_what_is_not_implemented_is_a_named_error(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        described(config_of("llama", **fields))

    assert text in str(caught.value)
    assert str(caught.value).startswith("config.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [{"pretraining_tp": 2}, {"sliding_window": 8}, {"sliding_window": 4096}])
def test_fields_that_transformers_leaves_unused_are_left_unused(fields: dict[str, Any]) -> None:
    # pretraining_tp splits products and adds their parts up, which is the same number
    assert DecoderConfig.from_huggingface(config_of("llama", **fields)) == DecoderConfig.from_huggingface(
        config_of("llama")
    )


@pytest.mark.parametrize("scaling", [{"rope_type": "linear", "factor": 0.5}, LLAMA3 | {"factor": 0.5}])
def test_a_factor_below_1_raises_the_frequencies_that_a_factor_above_lowers(scaling: dict[str, Any]) -> None:
    plain, raised = (
        np.array(DecoderConfig.from_huggingface(config_of("llama", **fields)).inverse_frequencies())
        for fields in ({}, {"rope_scaling": scaling})
    )

    assert raised[-1] == 2 * plain[-1]
    assert (raised >= plain).all()


def test_a_window_for_layers_without_one_is_an_error() -> None:
    with pytest.raises(InputError, match="without a window"):
        DecoderConfig.from_huggingface(config_of("qwen2", layer_types=["sliding_attention"] * 3))


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(InputError) as caught:
        DecoderConfig.from_huggingface({"model_type": "llama", "hidden_act": "gelu"}, "m.yaml: model.config")

    lines = str(caught.value).splitlines()
    sizes = [name for name in SIZES if name != "num_key_value_heads"]
    assert [line for line in lines if not line.startswith("m.yaml: model.config: ")] == []
    assert sum("missing" in line for line in lines) == len(sizes)
    assert len(lines) == len(sizes) + 1


@pytest.mark.parametrize(
    ("fields", "dtype"),
    [
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "float32", "torch_dtype": "float16"}, "float32"),
        ({"torch_dtype": "torch.float16"}, "float16"),
        ({"dtype": "auto"}, None),
        ({}, None),
    ],
)
def test_a_description_has_the_facts_a_plan_needs(fields: dict[str, Any], dtype: str | None) -> None:
    description = described(config_of("mistral", **fields))

    assert description == registry.Description("mistral", 96, 128, dtype, images=None)
