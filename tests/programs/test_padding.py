import numpy as np
import pytest

from aot.errors import InputError
from aot.runtime.padding import pad, pads_behind


def test_pads_stand_left_and_the_mask_tells_them_from_tokens():
    padded, mask = pad([[5, 6, 7], [8], []], pad_token=9)

    assert padded.tolist() == [[5, 6, 7], [9, 9, 8], [9, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert padded.dtype == mask.dtype == np.int32


@pytest.mark.parametrize(("pad_to", "length"), [(None, 3), (2, 3), (3, 3), (5, 5)])
def test_the_length_is_the_longest_or_pad_to_whichever_is_more(pad_to, length):
    padded, mask = pad([[1, 2, 3], np.array([4])], pad_to=pad_to)

    assert padded.shape == mask.shape == (2, length)


def test_all_inputs_with_an_axis_of_tokens_go_to_the_left_together():
    axes = {"tokens": ("batch_size", "prefill_length"), "lengths": ("batch_size",), "limit": ("batch_size",)}
    axes |= {"positions": ("batch_size", None, "prefill_length"), "embeddings": ("batch_size", "prefill_length", None)}
    tokens, mask = pad([[5, 6, 7], [8]])
    positions = np.stack([tokens * 10, tokens * 100], axis=1)
    embeddings = tokens[..., None] * [1000, 10_000]
    given = {"tokens": tokens, "mask": mask, "positions": positions, "embeddings": embeddings, "limit": [3, 4]}

    made = pads_behind(given, "prefill", axes)

    assert made["lengths"].tolist() == [3, 1]
    assert made["tokens"][0].tolist() == [5, 6, 7]
    assert (made["tokens"][1, 0], made["positions"][1, :, 0].tolist()) == (8, [80, 800])
    assert made["embeddings"][1, 0].tolist() == [8000, 80_000]
    assert made["limit"].tolist() == [3, 4]


def test_a_phase_with_a_mask_of_its_own_has_it_as_it_is():
    given = {"tokens": [[5]], "mask": [[1]]}

    assert pads_behind(given, "prefill", {"tokens": (), "lengths": (), "mask": ()}) is given


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "at least one"),
        ((5,), "list of token lists, got 5"),
        (([5, 6],), r"list of token lists, got \[5, 6\]"),
        ((["text"],), r"sequences\[0\]: tokens must be integers, got 't'"),
        (([[1], [True]],), r"sequences\[1\]: tokens must be integers, got True"),
        (([[1 << 31]],), "int32, got 2147483648"),
        (([[1]], 0.5), "pad_token: tokens must be integers, got 0.5"),
        (([[1]], 0, -1), "pad_to: must be an integer of at least 0, got -1"),
        (([[1]], 0, True), "pad_to: must be an integer of at least 0, got True"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        pad(*arguments)

    assert "\n" not in str(caught.value)
