"""Qwen2-VL against transformers' own torch model."""

from typing import Any

import numpy as np
import pytest
import qwen2_vl_oracle as oracle
from prefills import assert_torchs, chains, decoded, embedded, errors, picture, prefilled, rows_of, weights_of

from aot.models import family, qwen2_vl
from aot.vision import Size

PROCESSOR = {"image_processor_type": "Qwen2VLImageProcessor"}
SIZES = (Size(24, 40), Size(32, 16))


@pytest.fixture(scope="module")
def torch_model() -> Any:
    return oracle.model()


@pytest.fixture(scope="module")
def config(torch_model: Any) -> family.ModelConfig:
    fields = torch_model.config.to_dict() | {"architectures": ["Qwen2VLForConditionalGeneration"]}
    return qwen2_vl.read(fields, PROCESSOR, "config.json")


@pytest.fixture(scope="module")
def weights(torch_model: Any, config: family.ModelConfig) -> dict[str, Any]:
    return weights_of(torch_model, config)


@pytest.mark.parametrize("size", [*SIZES, Size(8, 8)])
def test_embeddings_are_torchs_for_each_image_of_a_call(size: Size, torch_model, config, weights) -> None:
    pixels = np.stack([picture(size, seed) for seed in range(2)])

    ours = embedded(config, weights, pixels)

    assert ours.shape == (2, config.encoder.images.tokens(size), oracle.TEXT["hidden_size"])
    for image, found in zip(pixels, ours, strict=True):
        assert np.abs(found - oracle.embeddings(torch_model, image)).max() < 1e-5


MIXED = (
    [11],
    [5, (SIZES[0], 1), 9],
    [3, (SIZES[1], 2), 1, (SIZES[0], 3), 2, (SIZES[1], 4), 7],
    [(SIZES[0], 5), 1, (SIZES[1], 6), 4],
    [20, (SIZES[1], 7)],
)


def test_logits_of_prefill_and_decode_are_torchs_for_rows_of_no_one_and_three_images(
    torch_model, config, weights
) -> None:
    rows, seeing = rows_of(config.encoder.images, *MIXED), chains(config, SIZES[0])

    assert_torchs(oracle, torch_model, config, weights, rows, seeing)


# Between texts, before an image, inside one above its greatest position and behind it, at the end.
@pytest.mark.parametrize("cuts", [[4, 5, 5, 0, 20], [11, 10, 11, 15, 27]])
def test_a_prefill_in_pieces_is_one_prefill_wherever_an_image_stands(cuts, torch_model, config, weights) -> None:
    rows, seeing = rows_of(config.encoder.images, *MIXED), chains(config, SIZES[0])

    _, state = prefilled(config, weights, rows, seeing["prefill"], pieces=[(0, cut) for cut in cuts])
    ends = [(cut, len(ids)) for cut, (ids, _) in zip(cuts, rows, strict=True)]
    rest, state = prefilled(config, weights, rows, seeing["prefill"], state, ends)
    later, logits = decoded(weights, seeing["decode"], state)

    for i, (ids, pictures) in enumerate(rows):
        theirs = oracle.logits(torch_model, [*ids, int(rest["token"][i]), *later[i, :-1]], pictures)
        shown = np.asarray(rest["logits"])[i, : len(ids) - cuts[i]]
        assert np.abs(shown - theirs[cuts[i] : len(ids)]).max(initial=0) < 1e-4
        assert np.abs(logits[i] - theirs[len(ids) :]).max() < 1e-4


def test_text_goes_on_after_images_where_their_positions_end(torch_model, config, weights) -> None:
    rows, seeing, text = rows_of(config.encoder.images, *MIXED), chains(config, SIZES[0]), chains(config, None)
    cuts = [len(ids) - 2 for ids, _ in rows]
    cuts[4] += 2  # ends with an image

    _, state = prefilled(config, weights, rows, seeing["prefill"], pieces=[(0, cut) for cut in cuts])
    ends = [(cut, len(ids)) for cut, (ids, _) in zip(cuts, rows, strict=True)]
    rest, state = prefilled(config, weights, rows, text["prefill"], state, ends)
    later, logits = decoded(weights, text["decode"], state)

    for i, (ids, pictures) in enumerate(rows):
        theirs = oracle.logits(torch_model, [*ids, int(rest["token"][i]), *later[i, :-1]], pictures)
        assert np.abs(logits[i] - theirs[len(ids) :]).max() < 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_err_about_as_much_as_torchs_own_and_not_more(dtype: str, torch_model, config) -> None:
    ours, theirs = errors(oracle, torch_model, config, MIXED, dtype)

    assert 0 < ours < 1.25 * theirs
