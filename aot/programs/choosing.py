"""The pure functions that choose tokens from logits, and keep account of what was chosen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aot.programs import drawing
from aot.programs.steps import StepArrays

DRAWN_STATE = ("counts", "generated", "token", "done")
"""State that begins anew with a prompt."""


@dataclass(frozen=True)
class BookPrompt:
    """Books tokens [batch, length] as prompt, behind which nothing is generated yet.

    What was generated before and is in the cache is prompt from now on. The last token generated is not in the
    cache: it belongs to the text only if the caller sends it again.
    """

    capacity: int

    def __call__(
        self,
        tokens: jax.Array,
        lengths: jax.Array,
        start: jax.Array,
        prompted: jax.Array,
        counts: jax.Array,
        generated: jax.Array,
        token: jax.Array,
    ) -> StepArrays:
        rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)
        held = counts.at[rows, token].add(-(generated > 0).astype(jnp.int32)) > 0
        given = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] < lengths[:, None]
        ids = jnp.where(given, tokens, np.int32(prompted.shape[1]))
        booked = (prompted | held).at[rows[:, None], ids].set(True, mode="drop")
        return {"prompted": booked, **_undrawn(counts, start + lengths), "room": jnp.int32(self.capacity)}


@dataclass(frozen=True)
class Undrawn:
    """The state of rows that hold `lengths` tokens of prompt, get no more, and of which nothing is generated."""

    capacity: int

    def __call__(self, lengths: jax.Array, counts: jax.Array) -> StepArrays:
        return {**_undrawn(counts, lengths), "fed": jnp.zeros_like(lengths), "room": jnp.int32(self.capacity)}


def _undrawn(counts: jax.Array, lengths: jax.Array) -> StepArrays:
    return {"counts": jnp.zeros_like(counts), "generated": jnp.zeros_like(lengths), "done": lengths <= 0}


@dataclass(frozen=True)
class Draw:
    """The next token of each row that is not done, from the logits after the `fed` tokens that it got last.

    A row that fills the `room` of its cache is done: there is no slot for the token that it would be fed. `tokens`
    [batch, 1] and `fed` [batch] are what is fed next, `more` whether there is any. The room is an argument, so that
    this program, which is slow to load, is one for caches of all sizes.
    """

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
        room: jax.Array,
        **request: jax.Array,
    ) -> StepArrays:
        live = ~done
        best, logprob = drawing.sample_tokens(
            logits, prompted, counts, generated, request, self.suppressed, self.begin_suppressed
        )
        drawn = jnp.where(live, best, request["pad"])
        rows = jnp.arange(token.shape[0], dtype=jnp.int32)
        lengths, generated = lengths + fed, generated + live.astype(jnp.int32)
        done |= _ends(drawn, request) | (generated >= request["limit"]) | (lengths >= room)
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

    Gives what `Draw` gives where nothing is drawn, and the `room` of a row in the cache.
    """

    capacity: int
    shown: int | None = None
    """The size of the vocabulary, whose logits are all 0 then; None where they are not asked for."""

    def __call__(
        self, token: jax.Array, done: jax.Array, lengths: jax.Array, stop: jax.Array, pad: jax.Array
    ) -> StepArrays:
        done |= stop | (lengths >= np.int32(self.capacity))
        nothing = {"drawn": jnp.full_like(token, pad), "logprob": jnp.zeros(token.shape, jnp.float32)}
        if self.shown is not None:
            nothing["shown"] = jnp.zeros((len(token), self.shown), jnp.float32)
        beginning = {"done": done, "room": jnp.int32(self.capacity)}
        return {**beginning, **_next({"token": token, "done": done}), **nothing}


def _next(state: StepArrays) -> StepArrays:
    """The token that each row is fed next, whether it is, and whether any is."""
    done = state["done"]
    return {"tokens": state["token"][:, None], "fed": (~done).astype(jnp.int32), "more": ~jnp.all(done)}


def _ends(token: jax.Array, request: Mapping[str, Any]) -> jax.Array:
    return jnp.any(token[:, None] == request["eos"][None], axis=1)
