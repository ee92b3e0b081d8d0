"""Qwen2-VL against transformers' own torch model."""

from typing import Any

import numpy as np
import pytest
import qwen2_vl_oracle as oracle
from interpreter import greedy, run

from aot.models import family, qwen2_vl
from aot.models.language import LanguageModel
from aot.precompile import Combo
from aot.programs import encode
from aot.programs.generation import Options
from aot.runtime import rotary
from aot.vision import Size

PROCESSOR = {"image_processor_type": "Qwen2VLImageProcessor"}
SIZES = (Size(24, 40), Size(32, 16))
WIDTH, CAPACITY, ROWS, CHUNK = 64, 80, 5, 4


@pytest.fixture(scope="module")
def torch_model() -> Any:
    return oracle.model()


@pytest.fixture(scope="module")
def config(torch_model: Any) -> family.ModelConfig:
    fields = torch_model.config.to_dict() | {"architectures": ["Qwen2VLForConditionalGeneration"]}
    return qwen2_vl.read(fields, PROCESSOR, "config.json")


@pytest.fixture(scope="module")
def weights(torch_model: Any, config: family.ModelConfig) -> dict[str, Any]:
    stored = {family.canonical(name): tensor.numpy() for name, tensor in torch_model.state_dict().items()}
    return {path: stored[config.huggingface(path)].reshape(shape) for path, shape in config.parameters().items()}


def picture(size: Size, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal((3, *size), np.float32)


def embedded(config: family.ModelConfig, weights: dict[str, Any], pixels: Any) -> Any:
    """Embeddings [images, tokens, hidden] by the phase encode."""
    assert config.encoder is not None
    images, channels, *size = pixels.shape
    chain = encode.phase(config.encoder.part("float32", "cpu"), images, channels, Size(*size))
    outputs, _ = run(chain, weights, {"pixels": pixels})
    return np.asarray(outputs["embeddings"])


@pytest.mark.parametrize("size", [*SIZES, Size(8, 8)])
def test_embeddings_are_torchs_for_each_image_of_a_call(size: Size, torch_model, config, weights) -> None:
    pixels = np.stack([picture(size, seed) for seed in range(2)])

    ours = embedded(config, weights, pixels)

    assert ours.shape == (2, config.encoder.images.tokens(size), oracle.TEXT["hidden_size"])
    for image, found in zip(pixels, ours, strict=True):
        assert np.abs(found - oracle.embeddings(torch_model, image)).max() < 1e-5


def rows_of(*contents: list[int | tuple[Size, int]]) -> list[tuple[list[int], list[Any]]]:
    """The ids and the pictures of rows of text, given by its length, and images, given by size and seed."""
    rng, made = np.random.default_rng(0), []
    for content in contents:
        ids: list[int] = []
        pictures = []
        for part in content:
            if isinstance(part, int):
                ids += rng.integers(2, 90, part).tolist()
            else:
                ids += [oracle.IMAGE] * (part[0].height // 8 * (part[0].width // 8))
                pictures.append(picture(*part))
        made.append((ids, pictures))
    return made


def prefilled(config, weights, rows, chain, state=None):
    """Runs a prefill with embeddings and positions as a runtime would pass them."""
    hidden, unit = config.decoder.hidden_size, config.encoder.images.unit
    tokens = np.zeros((ROWS, WIDTH), np.int32)
    positions = np.zeros((ROWS, 3, WIDTH), np.int32)
    embeddings = np.zeros((ROWS, WIDTH, hidden), np.float32)
    for i, (ids, pictures) in enumerate(rows):
        tokens[i, : len(ids)] = ids
        grids = [(pixels.shape[1] // unit, pixels.shape[2] // unit) for pixels in pictures]
        positions[i, :, : len(ids)] = rotary.positions(ids, grids, oracle.IMAGE)[0]
        if pictures:
            made = [embedded(config, weights, pixels[None])[0] for pixels in pictures]
            embeddings[i, tokens[i] == oracle.IMAGE] = np.concatenate(made)
    lengths = np.array([len(ids) for ids, _ in rows], np.int32)
    seen = {"embeddings": embeddings, "positions": positions}
    taken = {name: array for name, array in seen.items() if name in chain.inputs}
    request = greedy(ROWS, CAPACITY)
    return run(chain, weights, {"tokens": tokens, "lengths": lengths, **taken, **request}, state)


def chains(config: family.ModelConfig, size: Size | None) -> Any:
    """Those of a combo with images of a size, or of text alone."""
    shape = {} if size is None else {"vision_batch_size": 1, "vision_channels": 3}
    shape |= {} if size is None else {"vision_height": size.height, "vision_width": size.width}
    combo = Combo(ROWS, WIDTH, CAPACITY, vision_included=size is not None, **shape)
    model = LanguageModel(config, "float32", Options(CHUNK, "all", 1), (combo,), lambda: iter(()))
    return model.chains(combo, "cpu", {})


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
    rows, seeing = rows_of(*MIXED), chains(config, SIZES[0])

    outputs, state = prefilled(config, weights, rows, seeing["prefill"])
    first, shown = np.asarray(outputs["token"]), np.asarray(outputs["logits"])
    inputs = {"stop": np.zeros(ROWS, bool), **greedy(ROWS, CAPACITY)}
    decoded, _ = run(seeing["decode"], weights, inputs, state)
    later = np.asarray(decoded["tokens"])

    for i, (ids, pictures) in enumerate(rows):
        theirs = oracle.logits(torch_model, [*ids, first[i], *later[i, :-1]], pictures)
        assert np.abs(shown[i, : len(ids)] - theirs[: len(ids)]).max() < 1e-4
        assert np.abs(np.asarray(decoded["logits"])[i] - theirs[len(ids) :]).max() < 1e-4
        assert [first[i], *later[i]] == theirs[len(ids) - 1 :].argmax(-1).tolist()
