"""The pure functions that the phases of a language model are lowered from.

Each takes and gives named arrays; what is static is a field, so that equal steps lower to the same bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aot.programs.decoder_parts import Decoder

StepArrays = dict[str, Any]


@dataclass(frozen=True)
class Embed:
    """Tokens [batch, length] to x [batch, length, hidden]."""

    decoder: Decoder

    def __call__(self, tokens: jax.Array, **weights: jax.Array) -> StepArrays:
        return {"x": self.decoder.embed(weights, tokens)}


@dataclass(frozen=True)
class PlaceStep:
    """X with the embeddings [batch, length, hidden] of images in the place of their tokens."""

    image: int

    def __call__(self, x: jax.Array, embeddings: jax.Array, tokens: jax.Array) -> StepArrays:
        return {"x": jnp.where((tokens == np.int32(self.image))[..., None], embeddings, x)}


@dataclass(frozen=True)
class Positions:
    """Rotary positions [batch, sections, width] of text that follows `start` tokens: the same in each section."""

    sections: int
    width: int

    def __call__(self, start: jax.Array, offset: jax.Array) -> StepArrays:
        places = (start + offset)[:, None] + jnp.arange(self.width, dtype=jnp.int32)[None]
        return {"positions": jnp.repeat(places[:, None], self.sections, axis=1)}


def position_offset(positions: jax.Array, start: jax.Array, lengths: jax.Array, offset: jax.Array) -> StepArrays:
    """How far the position after the greatest of those [batch, sections, length] given is from the row's length."""
    given = jnp.arange(positions.shape[2], dtype=jnp.int32)[None] < lengths[:, None]
    last = jnp.max(jnp.where(given[:, None], positions, np.int32(-1)), axis=(1, 2))
    return {"offset": jnp.where(lengths > 0, last + np.int32(1) - start - lengths, offset)}


@dataclass(frozen=True)
class BlockStep:
    """One layer over x [batch, length, hidden] of rows that hold `start` tokens and get `lengths` more."""

    decoder: Decoder
    window: int | None

    def __call__(
        self,
        x: jax.Array,
        start: jax.Array,
        lengths: jax.Array,
        positions: jax.Array | None = None,
        **arrays: jax.Array,
    ) -> StepArrays:
        cache = arrays_under(arrays, "cache/")
        weights = {path: array for path, array in arrays.items() if not path.startswith("cache/")}
        span = self.decoder.span(self.window, start, lengths, x.shape[1], positions)
        x, cache = self.decoder.block(weights, x, cache, span)
        return {"x": x, **{f"cache/{name}": array for name, array in cache.items()}}


def last(x: jax.Array, lengths: jax.Array) -> StepArrays:
    """X [batch, 1, …] of the last token of each row, from x [batch, length, …] and how many tokens each row gets."""
    place = jnp.maximum(lengths - 1, 0)[:, None, None]
    return {"last": jnp.take_along_axis(x, place, axis=1)}


@dataclass(frozen=True)
class Head:
    """Logits [batch, vocab] after the last token of each row, from its x [batch, 1, hidden].

    A row that gets no tokens keeps the logits it had `before`.
    """

    decoder: Decoder

    def __call__(self, x: jax.Array, lengths: jax.Array, before: jax.Array, **weights: jax.Array) -> StepArrays:
        return {"logits": jnp.where(lengths[:, None] > 0, self.decoder.head(weights, x[:, 0]), before)}


@dataclass(frozen=True)
class WideHead:
    """What `Head` gives, and logits of every position [batch, length, vocab], from all x [batch, length, hidden]."""

    decoder: Decoder

    def __call__(self, x: jax.Array, lengths: jax.Array, before: jax.Array, **weights: jax.Array) -> StepArrays:
        every = self.decoder.head(weights, x.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], -1)
        logits = last(every, lengths)["last"][:, 0]
        return {"logits": jnp.where(lengths[:, None] > 0, logits, before), "all": every}


def take_rows(source: jax.Array, into: jax.Array, rows: jax.Array) -> StepArrays:
    """Into with row i replaced by row `rows[i]` of source, or left where that is -1."""
    taken = source.at[jnp.maximum(rows, 0)].get(mode="clip")
    chosen = (rows >= 0).reshape(-1, *(1,) * (into.ndim - 1))
    return {"result": jnp.where(chosen, taken, into)}


def arrays_under(arrays: Mapping[str, Any], prefix: str) -> StepArrays:
    """Arrays whose paths begin with a prefix, by the rest of their paths."""
    return {path.removeprefix(prefix): array for path, array in arrays.items() if path.startswith(prefix)}
