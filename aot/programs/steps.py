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

from aot.programs import sampling
from aot.programs.decoder import Decoder

Arrays = dict[str, Any]

DRAWN = ("counts", "generated", "token", "done")
"""State that begins anew with a prompt."""


@dataclass(frozen=True)
class Embed:
    """Tokens [batch, length] to x [batch, length, hidden]."""

    decoder: Decoder

    def __call__(self, tokens: jax.Array, **weights: jax.Array) -> Arrays:
        return {"x": self.decoder.embed(weights, tokens)}


@dataclass(frozen=True)
class Place:
    """X with the embeddings [batch, length, hidden] of images in the place of their tokens."""

    image: int

    def __call__(self, x: jax.Array, embeddings: jax.Array, tokens: jax.Array) -> Arrays:
        return {"x": jnp.where((tokens == np.int32(self.image))[..., None], embeddings, x)}


@dataclass(frozen=True)
class Positions:
    """Rotary positions [batch, sections, width] of text that follows `start` tokens: the same in each section."""

    sections: int
    width: int

    def __call__(self, start: jax.Array, offset: jax.Array) -> Arrays:
        places = (start + offset)[:, None] + jnp.arange(self.width, dtype=jnp.int32)[None]
        return {"positions": jnp.repeat(places[:, None], self.sections, axis=1)}


def offset(positions: jax.Array, start: jax.Array, lengths: jax.Array, offset: jax.Array) -> Arrays:
    """How far the position after the greatest of those [batch, sections, length] given is from the row's length."""
    given = jnp.arange(positions.shape[2], dtype=jnp.int32)[None] < lengths[:, None]
    last = jnp.max(jnp.where(given[:, None], positions, np.int32(-1)), axis=(1, 2))
    return {"offset": jnp.where(lengths > 0, last + np.int32(1) - start - lengths, offset)}


@dataclass(frozen=True)
class Block:
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
    ) -> Arrays:
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

    def __call__(self, x: jax.Array, lengths: jax.Array, before: jax.Array, **weights: jax.Array) -> Arrays:
        last, given = jnp.maximum(lengths - 1, 0)[:, None, None], lengths[:, None] > 0
        if not self.every:
            logits = self.decoder.head(weights, jnp.take_along_axis(x, last, axis=1)[:, 0])
            return {"logits": jnp.where(given, logits, before)}
        every = self.decoder.head(weights, x.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], -1)
        logits = jnp.take_along_axis(every, last, axis=1)[:, 0]
        return {"logits": jnp.where(given, logits, before), "all": every}


def prompt(
    tokens: jax.Array,
    lengths: jax.Array,
    start: jax.Array,
    prompted: jax.Array,
    counts: jax.Array,
    generated: jax.Array,
    token: jax.Array,
) -> Arrays:
    """Books tokens [batch, length] as prompt, behind which nothing is generated yet.

    What was generated before and is in the cache is prompt from now on. The last token generated is not in the
    cache: it belongs to the text only if the caller sends it again.
    """
    rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)
    held = counts.at[rows, token].add(-(generated > 0).astype(jnp.int32)) > 0
    given = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] < lengths[:, None]
    ids = jnp.where(given, tokens, np.int32(prompted.shape[1]))
    booked = (prompted | held).at[rows[:, None], ids].set(True, mode="drop")
    return {"prompted": booked, **_undrawn(counts, start + lengths)}


def undrawn(lengths: jax.Array, counts: jax.Array) -> Arrays:
    """The state of rows that hold `lengths` tokens of prompt, get no more, and of which nothing is generated."""
    return {**_undrawn(counts, lengths), "fed": jnp.zeros_like(lengths)}


def _undrawn(counts: jax.Array, lengths: jax.Array) -> Arrays:
    return {"counts": jnp.zeros_like(counts), "generated": jnp.zeros_like(lengths), "done": lengths <= 0}


@dataclass(frozen=True)
class Draw:
    """The next token of each row that is not done, from the logits after the `fed` tokens that it got last.

    A row whose cache is full is done: there is no slot for the token that it would be fed. `tokens` [batch, 1] and
    `fed` [batch] are what is fed next, `more` whether there is any.
    """

    capacity: int
    shown: bool
    """Whether the logits are given too."""
    suppressed: tuple[int, ...] = ()
    """Tokens that are not drawn."""
    begin_suppressed: tuple[int, ...] = ()
    """Tokens that are not drawn first."""

    def __call__(
        self,
        logits: jax.Array,
        prompted: jax.Array,
        counts: jax.Array,
        generated: jax.Array,
        lengths: jax.Array,
        token: jax.Array,
        done: jax.Array,
        fed: jax.Array,
        **request: jax.Array,
    ) -> Arrays:
        live = ~done
        best, logprob = sampling.sample(
            logits, prompted, counts, generated, request, self.suppressed, self.begin_suppressed
        )
        drawn = jnp.where(live, best, request["pad"])
        rows = jnp.arange(token.shape[0], dtype=jnp.int32)
        lengths, generated = lengths + fed, generated + live.astype(jnp.int32)
        done |= _ends(drawn, request) | (generated >= request["limit"]) | (lengths >= np.int32(self.capacity))
        state = {
            "counts": counts.at[rows, drawn].add(live.astype(jnp.int32), mode="drop"),
            "generated": generated,
            "lengths": lengths,
            "token": jnp.where(live, drawn, token),
            "done": done,
        }
        shown = {"drawn": drawn, "logprob": jnp.where(live, logprob, np.float32(0))}
        return {**state, **_next(state), **shown, **({"shown": logits} if self.shown else {})}


@dataclass(frozen=True)
class Begin:
    """A call of decode begins: rows that are to `stop`, or whose cache is full, are done.

    Gives what `Draw` gives where nothing is drawn.
    """

    capacity: int
    shown: int | None = None
    """The size of the vocabulary, whose logits are all 0 then; None where they are not asked for."""

    def __call__(
        self, token: jax.Array, done: jax.Array, lengths: jax.Array, stop: jax.Array, pad: jax.Array
    ) -> Arrays:
        done |= stop | (lengths >= np.int32(self.capacity))
        nothing = {"drawn": jnp.full_like(token, pad), "logprob": jnp.zeros(token.shape, jnp.float32)}
        if self.shown is not None:
            nothing["shown"] = jnp.zeros((len(token), self.shown), jnp.float32)
        return {"done": done, **_next({"token": token, "done": done}), **nothing}


def _next(state: Arrays) -> Arrays:
    """The token that each row is fed next, whether it is, and whether any is."""
    done = state["done"]
    return {"tokens": state["token"][:, None], "fed": (~done).astype(jnp.int32), "more": ~jnp.all(done)}


def take(source: jax.Array, into: jax.Array, rows: jax.Array) -> Arrays:
    """Into with row i replaced by row `rows[i]` of source, or left where that is -1."""
    taken = source.at[jnp.maximum(rows, 0)].get(mode="clip")
    chosen = (rows >= 0).reshape(-1, *(1,) * (into.ndim - 1))
    return {"result": jnp.where(chosen, taken, into)}


@dataclass(frozen=True)
class Decode:
    """Up to `chunk` steps in one program: each feeds the last token, and draws the next for the rows not done."""

    decoder: Decoder
    chunk: int
    logits: str
    begin: Begin
    draw: Draw

    def __call__(self, **arrays: jax.Array) -> Arrays:
        weights, state, request = (_under(arrays, kind) for kind in ("weight/", "state/", "input/"))
        prompted = state.pop("prompted")
        begun = self.begin(state["token"], state["done"], state["lengths"], request.pop("stop"), request["pad"])
        state["done"] = begun["done"]

        def more(carry: Any) -> jax.Array:
            step, state, _ = carry
            return (step < self.chunk) & ~jnp.all(state["done"])

        def advance(carry: Any) -> Any:
            step, state, outputs = carry
            live = ~state["done"]
            state, drawn = self._step(weights, state, prompted, request)
            return step + np.int32(1), state, self._record(outputs, step, drawn, live)

        step, state, outputs = lax.while_loop(more, advance, (jnp.int32(0), state, self._outputs(begun)))
        results = {"steps": step, **outputs}
        return _slots("state", state) | _slots("output", results)

    def _outputs(self, begun: Arrays) -> Arrays:
        every = {"tokens": begun["drawn"], "logprobs": begun["logprob"]}
        if self.logits == "all":
            every["logits"] = begun["shown"]
        made = {name: jnp.repeat(first[:, None], self.chunk, axis=1) for name, first in every.items()}
        return made | ({"logits": begun["shown"]} if self.logits == "last" else {})

    def _record(self, outputs: Arrays, step: jax.Array, drawn: Arrays, live: jax.Array) -> Arrays:
        shown = {"tokens": drawn["drawn"], "logprobs": drawn["logprob"]}
        if self.logits == "all":
            shown["logits"] = drawn["shown"]
        made = {name: outputs[name].at[:, step].set(value) for name, value in shown.items()}
        if self.logits == "last":
            made["logits"] = jnp.where(live[:, None], drawn["shown"], outputs["logits"])
        return made

    def _step(self, weights: Arrays, state: Arrays, prompted: jax.Array, request: Arrays) -> tuple[Arrays, Arrays]:
        fed = (~state["done"]).astype(jnp.int32)
        logits, cache = self._forward(weights, state, fed)
        names = ("counts", "generated", "lengths", "token", "done")
        drawn = self.draw(logits, prompted, fed=fed, **{name: state[name] for name in names}, **request)
        return {**state, **cache, **{name: drawn[name] for name in names}}, drawn

    def _forward(self, weights: Arrays, state: Arrays, fed: jax.Array) -> tuple[jax.Array, Arrays]:
        token, positions = state["token"], None
        if self.decoder.platform == "cpu":
            # Without this XLA converts narrow weights once, ahead of the loop, and streams the wide copies instead.
            weights, token = lax.optimization_barrier((weights, token))
        if self.decoder.sections is not None:
            positions = Positions(len(self.decoder.sections), 1)(state["lengths"], state["offset"])["positions"]
        x, cache, spans = self.decoder.embed(weights, token[:, None]), dict[str, Any](), dict[int | None, Any]()
        for layer, window in enumerate(self.decoder.windows):
            if window not in spans:
                spans[window] = self.decoder.span(window, state["lengths"], fed, 1, positions)
            own = _under(state, f"cache/{layer}/")
            x, new = self.decoder.block(_under(weights, f"layers/{layer}/"), x, own, spans[window])
            cache |= {f"cache/{layer}/{name}": array for name, array in new.items()}
        return self.decoder.head(weights, x[:, 0]), cache


def _ends(token: jax.Array, request: Mapping[str, Any]) -> jax.Array:
    return jnp.any(token[:, None] == request["eos"][None], axis=1)


def _under(arrays: Mapping[str, Any], prefix: str) -> Arrays:
    return {path.removeprefix(prefix): array for path, array in arrays.items() if path.startswith(prefix)}


def _slots(kind: str, arrays: Mapping[str, Any]) -> Arrays:
    return {f"{kind}/{name}": array for name, array in arrays.items()}
