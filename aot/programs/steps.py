"""The pure functions that the phases of a language model are lowered from.

Each takes and gives named arrays; what is static is a field, so that equal steps lower to the same bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from aot.programs import drawing
from aot.programs.decoder_parts import Decoder
from aot.slots import INPUT, OUTPUT, STATE, WEIGHT

StepArrays = dict[str, Any]
Carry = tuple[jax.Array, StepArrays, StepArrays]
"""Steps taken, the state, and the outputs so far."""

DRAWN_STATE = ("counts", "generated", "token", "done")
"""State that drawing the first token sets anew."""


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
        cache = _under(arrays, "cache/")
        weights = {path: array for path, array in arrays.items() if not path.startswith("cache/")}
        span = self.decoder.span(self.window, start, lengths, x.shape[1], positions)
        x, cache = self.decoder.block(weights, x, cache, span)
        return {"x": x, **{f"cache/{name}": array for name, array in cache.items()}}


@dataclass(frozen=True)
class Head:
    """Logits [batch, vocab] after the last token of each row, and where asked those of every position.

    A row that gets no tokens keeps the logits it had `before`.
    """

    decoder: Decoder
    every: bool

    def __call__(self, x: jax.Array, lengths: jax.Array, before: jax.Array, **weights: jax.Array) -> StepArrays:
        last, given = jnp.maximum(lengths - 1, 0)[:, None, None], lengths[:, None] > 0
        if not self.every:
            logits = self.decoder.head(weights, jnp.take_along_axis(x, last, axis=1)[:, 0])
            return {"logits": jnp.where(given, logits, before)}
        every = self.decoder.head(weights, x.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], -1)
        logits = jnp.take_along_axis(every, last, axis=1)[:, 0]
        return {"logits": jnp.where(given, logits, before), "all": every}


def book_prompt(
    tokens: jax.Array,
    lengths: jax.Array,
    start: jax.Array,
    prompted: jax.Array,
    counts: jax.Array,
    generated: jax.Array,
    token: jax.Array,
) -> StepArrays:
    """Books tokens [batch, length] as prompt.

    What was generated before and is in the cache is prompt from now on. The last token generated is not in the
    cache: it belongs to the text only if the caller sends it again.
    """
    rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)
    held = counts.at[rows, token].add(-(generated > 0).astype(jnp.int32)) > 0
    given = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] < lengths[:, None]
    ids = jnp.where(given, tokens, np.int32(prompted.shape[1]))
    return {"prompted": (prompted | held).at[rows[:, None], ids].set(True, mode="drop"), "lengths": start + lengths}


@dataclass(frozen=True)
class First:
    """The first token of each row, from the logits after its prompt; rows without a prompt are done at once."""

    shown: bool
    """Whether the logits are an output too."""
    suppressed: tuple[int, ...] = ()
    """Tokens that are not drawn first."""

    def __call__(self, logits: jax.Array, prompted: jax.Array, lengths: jax.Array, **request: jax.Array) -> StepArrays:
        none = jnp.zeros_like(lengths)
        counts = jnp.zeros(logits.shape, jnp.int32)
        token, logprob = drawing.sample_tokens(logits, prompted, counts, none, request, self.suppressed)
        live = lengths > 0
        token = jnp.where(live, token, request["pad"])
        rows = jnp.arange(token.shape[0], dtype=jnp.int32)
        drawn = {
            "counts": counts.at[rows, token].add(live.astype(jnp.int32), mode="drop"),
            "generated": live.astype(jnp.int32),
            "token": token,
            "done": ~live | _ends(token, request) | (request["limit"] <= 1),
        }
        outputs = {"first": token, "logprob": jnp.where(live, logprob, np.float32(0))}
        return {**drawn, **outputs, **({"shown": logits} if self.shown else {})}


def take_rows(source: jax.Array, into: jax.Array, rows: jax.Array) -> StepArrays:
    """Into with row i replaced by row `rows[i]` of source, or left where that is -1."""
    taken = source.at[jnp.maximum(rows, 0)].get(mode="clip")
    chosen = (rows >= 0).reshape(-1, *(1,) * (into.ndim - 1))
    return {"result": jnp.where(chosen, taken, into)}


@dataclass(frozen=True)
class Decode:
    """Up to `chunk` steps: each feeds the last token, and draws the next for the rows that are not done.

    A row whose cache is full is done: there is no slot for the token that it would be fed.
    """

    decoder: Decoder
    chunk: int
    logits: str
    capacity: int
    suppressed: tuple[int, ...] = ()
    """Tokens that are not drawn."""

    def __call__(self, **arrays: jax.Array) -> StepArrays:
        weights, state, request = (kind.paths(arrays) for kind in (WEIGHT, STATE, INPUT))
        prompted = state.pop("prompted")
        state["done"] |= request["stop"] | self._full(state["lengths"])
        outputs = self._outputs(state["token"].shape[0], prompted.shape[1], request["pad"])

        def more(carry: Carry) -> jax.Array:
            step, state, _ = carry
            return (step < self.chunk) & ~jnp.all(state["done"])

        def advance(carry: Carry) -> Carry:
            step, state, outputs = carry
            state, shown = self._step(weights, state, prompted, request)
            return step + np.int32(1), state, self._record(outputs, step, shown)

        step, state, outputs = lax.while_loop(more, advance, (jnp.int32(0), state, outputs))
        results = {"steps": step, **outputs}
        return STATE.slots(state) | OUTPUT.slots(results)

    def _full(self, lengths: jax.Array) -> jax.Array:
        return lengths >= np.int32(self.capacity)

    def _outputs(self, batch: int, vocab: int, pad: jax.Array) -> StepArrays:
        shape = (batch, self.chunk)
        made = {"tokens": jnp.full(shape, pad, jnp.int32), "logprobs": jnp.zeros(shape, jnp.float32)}
        wide = {"all": (*shape, vocab), "last": (batch, vocab)}
        return made | ({"logits": jnp.zeros(wide[self.logits], jnp.float32)} if self.logits in wide else {})

    def _record(self, outputs: StepArrays, step: jax.Array, shown: StepArrays) -> StepArrays:
        made = {name: outputs[name].at[:, step].set(shown[name]) for name in ("tokens", "logprobs")}
        if self.logits == "all":
            made["logits"] = outputs["logits"].at[:, step].set(shown["logits"])
        if self.logits == "last":
            made["logits"] = jnp.where(shown["live"][:, None], shown["logits"], outputs["logits"])
        return made

    def _step(
        self, weights: StepArrays, state: StepArrays, prompted: jax.Array, request: StepArrays
    ) -> tuple[StepArrays, StepArrays]:
        live = ~state["done"]
        logits, cache = self._forward(weights, state, live)
        drawn, logprob = drawing.sample_tokens(
            logits, prompted, state["counts"], state["generated"], request, self.suppressed
        )
        token = jnp.where(live, drawn, request["pad"])
        rows = jnp.arange(token.shape[0], dtype=jnp.int32)
        generated, lengths = (state[name] + live.astype(jnp.int32) for name in ("generated", "lengths"))
        following = {
            **state,
            **cache,
            "lengths": lengths,
            "counts": state["counts"].at[rows, token].add(live.astype(jnp.int32), mode="drop"),
            "generated": generated,
            "token": jnp.where(live, token, state["token"]),
            "done": state["done"] | _ends(token, request) | (generated >= request["limit"]) | self._full(lengths),
        }
        logprob = jnp.where(live, logprob, np.float32(0))
        return following, {"tokens": token, "logprobs": logprob, "logits": logits, "live": live}

    def _forward(self, weights: StepArrays, state: StepArrays, live: jax.Array) -> tuple[jax.Array, StepArrays]:
        token = state["token"]
        if self.decoder.platform == "cpu":
            # Without this XLA converts narrow weights once, ahead of the loop, and streams the wide copies instead.
            weights, token = lax.optimization_barrier((weights, token))
        positions = None
        if self.decoder.sections is not None:
            positions = Positions(len(self.decoder.sections), 1)(state["lengths"], state["offset"])["positions"]
        x, cache, spans = self.decoder.embed(weights, token[:, None]), dict[str, Any](), dict[int | None, Any]()
        for layer, window in enumerate(self.decoder.windows):
            if window not in spans:
                spans[window] = self.decoder.span(window, state["lengths"], live.astype(jnp.int32), 1, positions)
            own = _under(state, f"cache/{layer}/")
            x, new = self.decoder.block(_under(weights, f"layers/{layer}/"), x, own, spans[window])
            cache |= {f"cache/{layer}/{name}": array for name, array in new.items()}
        return self.decoder.head(weights, x[:, 0]), cache


def _ends(token: jax.Array, request: Mapping[str, Any]) -> jax.Array:
    return jnp.any(token[:, None] == request["eos"][None], axis=1)


def _under(arrays: Mapping[str, Any], prefix: str) -> StepArrays:
    return {path.removeprefix(prefix): array for path, array in arrays.items() if path.startswith(prefix)}
