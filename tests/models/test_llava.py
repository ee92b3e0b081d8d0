"""LLaVA against what transformers' own model in torch gave."""

from typing import Any

import numpy as np
import pytest
from oracles import records
from oracles.records import Case
from prefills import assert_pieces, assert_torchs, chains, embedded, error, pixels_of, prefilled, weights_of
from processors import LLAVA

from aot.models.checkpoints import quantize
from aot.models.families import family, llava, llava_config
from aot.vision import Size

TRAINED = Size(16, 16)
# Larger, smaller, and as many patches in another shape.
OTHERS = (Size(24, 40), Size(4, 8), Size(8, 32))


def read(oracle: Case) -> family.ModelConfig:
    return llava.read_llava(oracle.config, LLAVA, "config.json")


def differences(oracle: Case, sizes: tuple[Size, ...]) -> list[float]:
    """Of the embeddings of two images of each size, which one call of encode takes."""
    config = read(oracle)
    weights = weights_of(oracle, config)
    recorded = {tuple(each): array for each, array in zip(oracle.given["images"], oracle.embeddings, strict=True)}
    found = []
    for size in sizes:
        ours = embedded(config, weights, pixels_of(size, 0, 1))
        theirs = np.stack([recorded[(*size, seed)] for seed in range(2)])
        assert ours.shape == theirs.shape == (2, config.encoder.images.tokens(size), config.decoder.hidden_size)
        found.append(np.abs(ours - theirs).max())
    return found


@pytest.mark.parametrize(("name", "strategy"), [("plain", "default"), ("full", "full")])
def test_embeddings_are_torchs_for_each_image_of_a_call_at_any_size(name: str, strategy: str) -> None:
    oracle = records.read(f"llava/{name}")

    assert oracle.config["vision_feature_select_strategy"] == strategy
    assert max(differences(oracle, (TRAINED, *OTHERS))) < 1e-5


# transformers fails at a plain 0
@pytest.mark.parametrize(
    ("name", "layer"), [("embedding", -4), ("last", -1), ("listed", [0]), ("first", 1), ("third", 3)]
)
def test_features_are_those_of_the_layer_that_the_configuration_names(name: str, layer: Any) -> None:
    oracle = records.read(f"llava/layers/{name}")

    assert oracle.config["vision_feature_layer"] == layer
    assert max(differences(oracle, (TRAINED,))) < 1e-5


@pytest.mark.parametrize("tower", llava_config.ACTIVATIONS)
def test_activations_of_tower_and_projector_are_torchs(tower: str) -> None:
    oracle = records.read(f"llava/activations/{tower}")

    assert oracle.config["vision_config"]["hidden_act"] == tower
    assert max(differences(oracle, (TRAINED,))) < 1e-5


def test_every_activation_is_recorded_in_tower_and_projector_and_not_the_same_in_both() -> None:
    configs = [records.read(name).config for name in records.find("llava/activations")]

    pairs = [(config["vision_config"]["hidden_act"], config["projector_hidden_act"]) for config in configs]
    for place in range(2):
        assert sorted(pair[place] for pair in pairs) == sorted(llava_config.ACTIVATIONS)
    assert all(tower != projector for tower, projector in pairs)


ENCODERS: dict[str, dict[str, Any]] = {
    "no-bias": {"multimodal_projector_bias": False},
    "epsilon": {"vision_config": {"layer_norm_eps": 0.1}},
    "patches": {"vision_config": {"num_attention_heads": 2, "patch_size": 8}},
    "remainder": {"vision_config": {"image_size": 18}},  # the last two pixels make no patch
}


@pytest.mark.parametrize("name", ENCODERS)
def test_other_fields_of_the_encoder_mean_what_they_mean_to_torch(name: str) -> None:
    oracle, plain = records.read(f"llava/encoders/{name}"), records.read("llava/plain").fields

    vision = plain["vision_config"] | ENCODERS[name].get("vision_config", {})
    assert oracle.fields == plain | ENCODERS[name] | {"vision_config": vision}
    assert max(differences(oracle, (TRAINED, Size(8, 24)))) < 1e-5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain", {"model_type": "llama"}),
        ("biased", {"model_type": "llama", "attention_bias": True, "tie_word_embeddings": True}),
        ("qwen2", {"model_type": "qwen2"}),
    ],
)
def test_logits_of_prefill_and_decode_are_torchs_for_rows_of_no_one_and_three_images(name: str, text: Any) -> None:
    oracle = records.read(f"llava/{name}")
    config = read(oracle)

    assert oracle.fields["text_config"] == records.read("llava/plain").fields["text_config"] | text
    assert [len(row.pictures) for row in oracle.rows("mixed")] == [0, 1, 3, 2, 1]
    assert_torchs(config, weights_of(oracle, config), oracle.rows("mixed"), chains(config, TRAINED))


def test_a_prefill_in_pieces_is_one_prefill_wherever_an_image_stands() -> None:
    oracle = records.read("llava/plain")
    config, rows = read(oracle), oracle.rows("mixed")
    seeing = chains(config, TRAINED)

    assert_pieces(config, weights_of(oracle, config), rows, seeing, [4, 3, 9, 0, len(rows[4].ids)], seeing)


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.thorough)])
def test_narrow_types_err_about_as_much_as_torchs_own_and_not_more(dtype: str) -> None:
    oracle = records.read("llava/plain")

    assert 0 < error(oracle, read(oracle), dtype) < 1.25 * oracle.made["narrow"][dtype]


def test_int8_is_of_the_text_alone_and_leaves_embeddings_as_they_are() -> None:
    oracle = records.read("llava/tied")
    config, rows = read(oracle), oracle.rows("mixed")
    weights = weights_of(oracle, config)
    declared = config.weights("float32", "int8")
    stored = dict(quantize.stored_tensors(weights.items(), declared, config.decoder.head_dim))

    narrow = {path for path, array in stored.items() if array.dtype == np.int8}
    assert narrow == {path for path in config.parameters() if path.endswith("_proj") and path.startswith("layers/")} | {
        "embed/tokens"
    }
    pixels = pixels_of(TRAINED, 0)
    np.testing.assert_array_equal(embedded(config, stored, pixels), embedded(config, weights, pixels))
    outputs, _ = prefilled(config, stored, rows, chains(config, TRAINED, quantization="int8")["prefill"])
    for logits, row in zip(np.asarray(outputs["logits"]), rows, strict=True):
        exact = row.logits[: len(row.ids)]
        assert 1e-4 < np.abs(logits[: len(exact)] - exact).max() < 0.1 * np.abs(exact).max()
