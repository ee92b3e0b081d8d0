"""Rows of tokens with pictures among them, through encode, prefill and decode as they are defined, without a bundle."""

import copy

import jax.numpy as jnp
import numpy as np
import torch
from interpreter import greedy, run

from aot.models import family
from aot.models.language import LanguageModel
from aot.precompile import Combo
from aot.programs import encode
from aot.programs.generation import Options
from aot.runtime import rotary
from aot.vision import Size

ROWS, WIDTH, CAPACITY, CHUNK = 5, 64, 80, 4


def picture(size, seed):
    return np.random.default_rng(seed).standard_normal((3, *size), np.float32)


def rows_of(images, *contents):
    """The ids and the pictures of rows of text, given by its length, and images, given by size and seed."""
    rng, made = np.random.default_rng(0), []
    for content in contents:
        ids, pictures = [], []
        for part in content:
            if isinstance(part, int):
                ids += rng.integers(2, 90, part).tolist()
            else:
                ids += [images.token] * images.tokens(part[0])
                pictures.append(picture(*part))
        made.append((ids, pictures))
    return made


def weights_of(torch_model, config):
    """The parameters of a torch model by our paths."""
    stored = {family.canonical(name): tensor for name, tensor in torch_model.state_dict().items()}
    found = {path: stored[config.huggingface(path)].reshape(shape) for path, shape in config.parameters().items()}
    return {path: tensor.float().numpy() for path, tensor in found.items()}


def embedded(config, weights, pixels, dtype="float32"):
    """Embeddings [images, tokens, hidden] by the phase encode."""
    images, channels, *size = pixels.shape
    chain = encode.phase(config.encoder.part(dtype, "cpu"), images, channels, Size(*size))
    outputs, _ = run(chain, weights, {"pixels": pixels})
    return np.asarray(outputs["embeddings"])


def chains(config, size, dtype="float32", quantization=None):
    """Those of a combo with images of a size, or of text alone."""
    shape = {} if size is None else {"vision_batch_size": 1, "vision_channels": 3}
    shape |= {} if size is None else {"vision_height": size.height, "vision_width": size.width}
    combo = Combo(ROWS, WIDTH, CAPACITY, vision_included=size is not None, **shape)
    model = LanguageModel(config, dtype, Options(CHUNK, "all", 1), (combo,), lambda: iter(()), quantization)
    return model.chains(combo, "cpu", {})


def prefilled(config, weights, rows, chain, state=None, pieces=None, dtype="float32"):
    """Runs a prefill of rows, or of a piece (start, end) of each, with what a runtime would pass it."""
    images = config.encoder.images
    tokens = np.zeros((ROWS, WIDTH), np.int32)
    positions = np.zeros((ROWS, 3, WIDTH), np.int32)
    embeddings = np.zeros((ROWS, WIDTH, config.decoder.hidden_size), np.float32)
    pieces = pieces or [(0, len(ids)) for ids, _ in rows]
    for i, ((ids, pictures), (start, end)) in enumerate(zip(rows, pieces, strict=True)):
        tokens[i, : end - start] = ids[start:end]
        if "positions" in chain.inputs:
            grids = [images.grid(Size(*pixels.shape[1:])) for pixels in pictures]
            positions[i, :, : end - start] = rotary.positions(ids, grids, images.token)[0][:, start:end]
        if pictures:
            made = [embedded(config, weights, pixels[None], dtype)[0] for pixels in pictures]
            placed = np.zeros((len(ids), embeddings.shape[2]), np.float32)
            placed[np.array(ids) == images.token] = np.concatenate(made)
            embeddings[i, : end - start] = placed[start:end]
    given = {"tokens": tokens, "lengths": np.array([end - start for start, end in pieces], np.int32)}
    seen = {"positions": positions, "embeddings": embeddings.astype(jnp.dtype(dtype))}
    taken = {name: array for name, array in seen.items() if name in chain.inputs}
    return run(chain, weights, given | taken | greedy(ROWS, CAPACITY), state)


def decoded(weights, chain, state):
    """Tokens and logits of one call of decode."""
    outputs, _ = run(chain, weights, {"stop": np.zeros(ROWS, bool), **greedy(ROWS, CAPACITY)}, state)
    return np.asarray(outputs["tokens"]), np.asarray(outputs["logits"])


def assert_torchs(oracle, torch_model, config, weights, rows, seeing):
    """Holds logits of prefill and decode, and the tokens, to those of a torch model, each row by itself."""
    outputs, state = prefilled(config, weights, rows, seeing["prefill"])
    first, shown = np.asarray(outputs["token"]), np.asarray(outputs["logits"])
    later, logits = decoded(weights, seeing["decode"], state)

    for i, (ids, pictures) in enumerate(rows):
        theirs = oracle.logits(torch_model, [*ids, first[i], *later[i, :-1]], pictures)
        assert np.abs(shown[i, : len(ids)] - theirs[: len(ids)]).max() < 1e-4
        assert np.abs(logits[i] - theirs[len(ids) :]).max() < 1e-4
        assert [first[i], *later[i]] == theirs[len(ids) - 1 :].argmax(-1).tolist()


def errors(oracle, torch_model, config, mixed, dtype):
    """How far logits in a narrow dtype are from torch's in float32: ours, and torch's own."""
    rows = rows_of(config.encoder.images, *mixed)
    exact = [oracle.logits(torch_model, *row) for row in rows]
    narrow = copy.deepcopy(torch_model).to(getattr(torch, dtype))
    weights = {path: jnp.asarray(array, dtype) for path, array in weights_of(torch_model, config).items()}
    size = Size(*rows[1][1][0].shape[1:])
    outputs, _ = prefilled(config, weights, rows, chains(config, size, dtype)["prefill"], dtype=dtype)
    ours = [logits[: len(wanted)] for logits, wanted in zip(np.asarray(outputs["logits"]), exact, strict=True)]
    theirs = [oracle.logits(narrow, *row) for row in rows]
    return tuple(max(np.abs(a - b).max() for a, b in zip(made, exact, strict=True)) for made in (ours, theirs))
