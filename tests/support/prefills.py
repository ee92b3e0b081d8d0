"""Rows of tokens with pictures among them, through encode, prefill and decode as they are defined, without a bundle."""

import jax.numpy as jnp
import numpy as np
from interpreter import greedy, run
from oracles import values

from aot.models import encoders
from aot.models.families import family
from aot.models.language import LanguageModel
from aot.precompile import Combo
from aot.programs import encode
from aot.programs.calls import GenerationOptions
from aot.runtime.prompting import rotary
from aot.vision import Size

ROWS, WIDTH, CAPACITY, CHUNK = 5, 64, 80, 4


def pixels_of(size, *seeds):
    """[images, channels, height, width] of recorded pictures."""
    return np.stack([values.pixels(values.picture(*size, seed)) for seed in seeds])


def weights_of(oracle, config):
    """The parameters of a recorded model by our paths."""
    stored = {family.canonical_name(name): tensor for name, tensor in oracle.modules.items()}
    return {path: stored[config.huggingface(path)].reshape(shape) for path, shape in config.parameters().items()}


def embedded(config, weights, pixels, dtype="float32"):
    """Embeddings [images, tokens, hidden] by the phase encode."""
    images, channels, *size = pixels.shape
    chain = encode.encode_phase(encoders.make_encoder(config.encoder, dtype, "cpu"), images, channels, Size(*size))
    outputs, _ = run(chain, weights, {"pixels": pixels})
    return np.asarray(outputs["embeddings"])


def chains(config, size, dtype="float32", quantization=None):
    """Those of a combo with images of a size, or of text alone."""
    shape = {} if size is None else {"vision_batch_size": 1, "vision_channels": 3}
    shape |= {} if size is None else {"vision_height": size.height, "vision_width": size.width}
    combo = Combo(ROWS, WIDTH, CAPACITY, vision_included=size is not None, **shape)
    model = LanguageModel(config, dtype, GenerationOptions(CHUNK, "all", 1), (combo,), lambda: iter(()), quantization)
    return model.chains(combo, "cpu", {})


def prefilled(config, weights, rows, chain, state=None, pieces=None, dtype="float32"):
    """Runs a prefill of rows, or of a piece (start, end) of each, with what a runtime would pass it."""
    images = config.encoder.images
    tokens = np.zeros((ROWS, WIDTH), np.int32)
    positions = np.zeros((ROWS, 3, WIDTH), np.int32)
    embeddings = np.zeros((ROWS, WIDTH, config.decoder.hidden_size), np.float32)
    pieces = pieces or [(0, len(row.ids)) for row in rows]
    for i, (row, (start, end)) in enumerate(zip(rows, pieces, strict=True)):
        ids, pictures = row.ids, row.pixels
        tokens[i, : end - start] = ids[start:end]
        if "positions" in chain.inputs:
            grids = [images.grid(Size(*pixels.shape[1:])) for pixels in pictures]
            positions[i, :, : end - start] = rotary.rotary_positions(ids, grids, images.token)[0][:, start:end]
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


def assert_torchs(config, weights, rows, seeing):
    """Holds logits of prefill and decode, and the tokens, to those of torch, each row by itself."""
    outputs, state = prefilled(config, weights, rows, seeing["prefill"])
    first, shown = np.asarray(outputs["token"]), np.asarray(outputs["logits"])
    later, logits = decoded(weights, seeing["decode"], state)

    for i, row in enumerate(rows):
        length = len(row.ids)
        assert np.abs(shown[i, :length] - row.logits[:length]).max() < 1e-4
        assert np.abs(logits[i] - row.logits[length:]).max() < 1e-4
        assert [first[i], *later[i]] == row.tokens


def assert_pieces(config, weights, rows, seeing, cuts, ending):
    """The same where each row comes in two pieces, of which the chains `ending` take the second and decode."""
    _, state = prefilled(config, weights, rows, seeing["prefill"], pieces=[(0, cut) for cut in cuts])
    ends = [(cut, len(row.ids)) for cut, row in zip(cuts, rows, strict=True)]
    rest, state = prefilled(config, weights, rows, ending["prefill"], state, ends)
    later, logits = decoded(weights, ending["decode"], state)

    for i, (row, cut) in enumerate(zip(rows, cuts, strict=True)):
        length, shown = len(row.ids), np.asarray(rest["logits"])[i]
        assert [int(rest["token"][i]), *later[i]] == row.tokens
        assert np.abs(shown[: length - cut] - row.logits[cut:length]).max(initial=0) < 1e-4
        assert np.abs(logits[i] - row.logits[length:]).max() < 1e-4


def error(oracle, config, dtype):
    """How far logits in a narrow dtype are from torch's in float32."""
    rows = oracle.rows(oracle.given["narrow"]["rows"])
    weights = {path: jnp.asarray(array, dtype) for path, array in weights_of(oracle, config).items()}
    size = Size(*rows[1].pictures[0][:2])
    outputs, _ = prefilled(config, weights, rows, chains(config, size, dtype)["prefill"], dtype=dtype)
    pairs = zip(np.asarray(outputs["logits"]), rows, strict=True)
    return max(np.abs(logits[: len(row.ids)] - row.logits[: len(row.ids)]).max() for logits, row in pairs)
