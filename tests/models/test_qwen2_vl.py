"""Qwen2-VL against what transformers' own model in torch gave."""

import numpy as np
import pytest
from oracles import records
from prefills import assert_pieces, assert_torchs, chains, embedded, error, pixels_of, weights_of
from processors import QWEN2_VL

from aot.models.families import qwen2_vl
from aot.vision import Size

SIZES = (Size(24, 40), Size(32, 16))
ORACLE = records.read("qwen2_vl/plain")
CONFIG = qwen2_vl.read_qwen2_vl(ORACLE.config, QWEN2_VL, "config.json")


@pytest.fixture(scope="module")
def weights():
    return weights_of(ORACLE, CONFIG)


@pytest.mark.parametrize("size", [*SIZES, Size(8, 8)])
def test_embeddings_are_torchs_for_each_image_of_a_call(size, weights):
    recorded = {tuple(each): array for each, array in zip(ORACLE.given["images"], ORACLE.embeddings, strict=True)}

    ours = embedded(CONFIG, weights, pixels_of(size, 0, 1))

    assert ours.shape == (2, CONFIG.encoder.images.tokens(size), CONFIG.decoder.hidden_size)
    for seed, found in enumerate(ours):
        assert np.abs(found - recorded[(*size, seed)]).max() < 1e-5


def test_logits_of_prefill_and_decode_are_torchs_for_rows_of_no_one_and_three_images(weights):
    rows = ORACLE.rows("mixed")

    assert [len(row.pictures) for row in rows] == [0, 1, 3, 2, 1]
    assert_torchs(CONFIG, weights, rows, chains(CONFIG, SIZES[0]))


# Between texts, before an image, inside one above its greatest position and behind it, at the end.
@pytest.mark.parametrize("cuts", [[4, 5, 5, 0, 20], [11, 10, 11, 15, 27]])
def test_a_prefill_in_pieces_is_one_prefill_wherever_an_image_stands(cuts, weights):
    seeing = chains(CONFIG, SIZES[0])

    assert_pieces(CONFIG, weights, ORACLE.rows("mixed"), seeing, cuts, seeing)


def test_text_goes_on_after_images_where_their_positions_end(weights):
    rows = ORACLE.rows("mixed")
    cuts = [len(row.ids) - 2 for row in rows]
    cuts[4] += 2  # ends with an image

    assert_pieces(CONFIG, weights, rows, chains(CONFIG, SIZES[0]), cuts, chains(CONFIG, None))


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.thorough)])
def test_narrow_types_err_about_as_much_as_torchs_own_and_not_more(dtype):
    assert 0 < error(ORACLE, CONFIG, dtype) < 1.25 * ORACLE.made["narrow"][dtype]
