"""The NumPy oracle of sampling: one row at a time, by sorting, in float64."""

import functools
from dataclasses import dataclass

import jax
import numpy as np


@dataclass(frozen=True)
class Row:
    """The options of one row, as `aot.programs.drawing` names them."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: tuple[int, int] = (0, 0)
    sequence: int = 0


def penalised(logits, prompted, counts, row):
    out = np.array(logits, np.float64)
    for token in range(len(out)):
        if prompted[token] or counts[token] > 0:
            out[token] = out[token] / row.repetition_penalty if out[token] > 0 else out[token] * row.repetition_penalty
        if counts[token] > 0:
            out[token] -= row.presence_penalty
            out[token] -= row.frequency_penalty * counts[token]
    return out


def kept(logits, row):
    """The tokens that are left of penalised logits, and how near a mass or a probability comes to its threshold."""
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if 0 < row.top_k < len(ranked):
        ranked = ranked[: row.top_k]
    weights = np.exp((logits[ranked] - logits[ranked[0]]) / np.float64(np.float32(row.temperature)))
    margin = np.inf
    if row.top_p < 1:
        before = np.concatenate([[0.0], np.cumsum(weights)[:-1]]) / weights.sum()
        margin = np.abs(before - np.float32(row.top_p)).min()
        ranked = [token for token, mass in zip(ranked, before, strict=True) if mass < np.float32(row.top_p)]
        weights = weights[: len(ranked)]
    ratios = weights / weights[0]
    inexact = ratios[ratios < 1]
    if row.min_p > 0 and len(inexact):
        margin = min(margin, np.abs(inexact - np.float32(row.min_p)).min())
    return [token for token, ratio in zip(ranked, ratios, strict=True) if ratio >= np.float32(row.min_p)], margin


def sample(logits, prompted, counts, generated, row):
    """The token, its logprob, and a margin: below 1e-5 float32 may rightly come to another token."""
    final = penalised(logits, prompted, counts, row)
    margin = np.inf
    if row.temperature == 0:
        token = int(np.argmax(final))
    else:
        tokens, margin = kept(final, row)
        scores = (final / np.float64(np.float32(row.temperature)) + noise(row, generated, len(final)))[sorted(tokens)]
        token = sorted(tokens)[int(np.argmax(scores))]
        if len(scores) > 1:
            best, second = np.sort(scores)[[-1, -2]]
            margin = min(margin, best - second)
    raw = np.asarray(logits, np.float64)
    return token, raw[token] - (raw.max() + np.log(np.exp(raw - raw.max()).sum())), margin


def noise(row, generated, vocab):
    """Gumbel noise of the row by itself."""
    return _noise(row.seed, row.sequence, generated, vocab)


@functools.cache
def _noise(seed, sequence, generated, vocab):
    key = jax.random.wrap_key_data(np.array(seed, np.uint32), impl="threefry2x32")
    key = jax.random.fold_in(jax.random.fold_in(key, sequence), generated)
    bits = np.asarray(jax.random.bits(key, (vocab,), np.uint32), np.float64)
    return -np.log(-np.log1p(-np.minimum((bits + 0.5) / 2**32, 1 - 2**-24)))
