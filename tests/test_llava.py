"""LLaVA against transformers' own torch model."""

import itertools
from typing import Any

import llava_oracle as oracle
import numpy as np
import pytest
from prefills import assert_torchs, chains, decoded, embedded, errors, picture, prefilled, rows_of, weights_of

from aot.models import family, llava, llava_config, quantize
from aot.vision import Size

PROCESSOR = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 16}, "crop_size": 16}
TRAINED = Size(16, 16)
PAIRS = list(itertools.pairwise([*llava_config.ACTIVATIONS, llava_config.ACTIVATIONS[0]]))
# Larger, smaller, and as many patches in another shape.
OTHERS = (Size(24, 40), Size(4, 8), Size(8, 32))


def read(torch_model: Any) -> family.ModelConfig:
    fields = torch_model.config.to_dict() | {"architectures": ["LlavaForConditionalGeneration"]}
    return llava.read(fields, PROCESSOR, "config.json")


def differences(torch_model: Any, sizes: tuple[Size, ...]) -> list[float]:
    """Of the embeddings of two images of each size, which one call of encode takes."""
    config = read(torch_model)
    weights = weights_of(torch_model, config)
    found = []
    for size in sizes:
        pixels = np.stack([picture(size, seed) for seed in range(2)])
        ours = embedded(config, weights, pixels)
        theirs = np.stack([oracle.embeddings(torch_model, image) for image in pixels])
        assert ours.shape == theirs.shape == (2, config.encoder.images.tokens(size), oracle.TEXT["hidden_size"])
        found.append(np.abs(ours - theirs).max())
    return found


@pytest.mark.parametrize("strategy", ["default", "full"])
def test_embeddings_are_torchs_for_each_image_of_a_call_at_any_size(strategy: str) -> None:
    torch_model = oracle.model(vision_feature_select_strategy=strategy)

    assert max(differences(torch_model, (TRAINED, *OTHERS))) < 1e-5


@pytest.mark.parametrize("layer", [-4, -1, [0], 1, 3])  # transformers fails at a plain 0
def test_features_are_those_of_the_layer_that_the_configuration_names(layer: Any) -> None:
    torch_model = oracle.model(vision_feature_layer=layer)

    assert max(differences(torch_model, (TRAINED,))) < 1e-5


@pytest.mark.parametrize(("tower", "projector"), PAIRS)
def test_activations_of_tower_and_projector_are_torchs(tower: str, projector: str) -> None:
    torch_model = oracle.model(vision={"hidden_act": tower}, projector_hidden_act=projector)

    assert max(differences(torch_model, (TRAINED,))) < 1e-5


@pytest.mark.parametrize(
    ("vision", "fields"),
    [
        ({}, {"multimodal_projector_bias": False}),
        ({"layer_norm_eps": 0.1}, {}),
        ({"num_attention_heads": 2, "patch_size": 8}, {}),
        ({"image_size": 18}, {}),  # the last two pixels make no patch
    ],
)
def test_other_fields_of_the_encoder_mean_what_they_mean_to_torch(vision: Any, fields: Any) -> None:
    assert max(differences(oracle.model(vision=vision, **fields), (TRAINED, Size(8, 24)))) < 1e-5


MIXED = (
    [11],
    [5, (TRAINED, 1), 9],
    [3, (OTHERS[1], 2), 1, (TRAINED, 3), 2, (OTHERS[1], 4), 7],
    [(OTHERS[2], 5), 1, (OTHERS[1], 6), 4],
    [20, (OTHERS[1], 7)],
)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "tie_word_embeddings": True}),
        ("qwen2", {}),
    ],
)
def test_logits_of_prefill_and_decode_are_torchs_for_rows_of_no_one_and_three_images(kind: str, text: Any) -> None:
    torch_model = oracle.model(kind, text)
    config = read(torch_model)
    weights, rows, seeing = (
        weights_of(torch_model, config),
        rows_of(config.encoder.images, *MIXED),
        chains(config, TRAINED),
    )

    assert_torchs(oracle, torch_model, config, weights, rows, seeing)


def test_a_prefill_in_pieces_is_one_prefill_wherever_an_image_stands() -> None:
    torch_model = oracle.model()
    config = read(torch_model)
    weights, rows, seeing = (
        weights_of(torch_model, config),
        rows_of(config.encoder.images, *MIXED),
        chains(config, TRAINED),
    )
    cuts = [4, 3, 9, 0, len(rows[4][0])]

    whole, _ = prefilled(config, weights, rows, seeing["prefill"])
    _, state = prefilled(config, weights, rows, seeing["prefill"], pieces=[(0, cut) for cut in cuts])
    ends = [(cut, len(ids)) for cut, (ids, _) in zip(cuts, rows, strict=True)]
    rest, state = prefilled(config, weights, rows, seeing["prefill"], state, ends)
    later, logits = decoded(weights, seeing["decode"], state)

    assert np.asarray(rest["token"]).tolist() == np.asarray(whole["token"]).tolist()
    for i, (ids, pictures) in enumerate(rows):
        theirs = oracle.logits(torch_model, [*ids, int(rest["token"][i]), *later[i, :-1]], pictures)
        assert (
            np.abs(np.asarray(rest["logits"])[i, : len(ids) - cuts[i]] - theirs[cuts[i] : len(ids)]).max(initial=0)
            < 1e-4
        )
        assert np.abs(logits[i] - theirs[len(ids) :]).max() < 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_err_about_as_much_as_torchs_own_and_not_more(dtype: str) -> None:
    torch_model = oracle.model()

    ours, theirs = errors(oracle, torch_model, read(torch_model), MIXED, dtype)

    assert 0 < ours < 1.25 * theirs


def test_int8_is_of_the_text_alone_and_leaves_embeddings_as_they_are() -> None:
    torch_model = oracle.model(tie_word_embeddings=True)
    config = read(torch_model)
    weights, rows = weights_of(torch_model, config), rows_of(config.encoder.images, *MIXED)
    declared = config.weights("float32", "int8")
    stored = dict(quantize.stored(weights.items(), declared))

    narrow = {path for path, array in stored.items() if array.dtype == np.int8}
    assert narrow == {path for path in config.parameters() if path.endswith("_proj") and path.startswith("layers/")} | {
        "embed/tokens"
    }
    pixels = picture(TRAINED, 0)[None]
    np.testing.assert_array_equal(embedded(config, stored, pixels), embedded(config, weights, pixels))
    outputs, _ = prefilled(config, stored, rows, chains(config, TRAINED, quantization="int8")["prefill"])
    for logits, row in zip(np.asarray(outputs["logits"]), rows, strict=True):
        exact = oracle.logits(torch_model, *row)
        assert 1e-4 < np.abs(logits[: len(exact)] - exact).max() < 0.1 * np.abs(exact).max()
