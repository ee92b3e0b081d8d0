"""Decode as one program with the loop over its steps inside."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from aot.programs.choosing import Begin, Draw
from aot.programs.decoder_parts import Decoder
from aot.programs.steps import Positions, StepArrays, arrays_under
from aot.slots import INPUT, OUTPUT, STATE, WEIGHT

Carry = tuple[jax.Array, StepArrays, StepArrays]
"""Steps taken, the state, and the outputs so far."""


@dataclass(frozen=True)
class Decode:
    """Up to `chunk` steps in one program: each feeds the last token, and draws the next for the rows not done."""

    decoder: Decoder
    chunk: int
    logits: str
    begin: Begin
    draw: Draw

    def __call__(self, **arrays: jax.Array) -> StepArrays:
        weights, state, request = (kind.paths(arrays) for kind in (WEIGHT, STATE, INPUT))
        prompted = state.pop("prompted")
        begun = self.begin(state["token"], state["done"], state["lengths"], request.pop("stop"), request["pad"])
        state["done"], room = begun["done"], begun["room"]

        def more(carry: Carry) -> jax.Array:
            step, state, _ = carry
            return (step < self.chunk) & ~jnp.all(state["done"])

        def advance(carry: Carry) -> Carry:
            step, state, outputs = carry
            live = ~state["done"]
            state, drawn = self._step(weights, state, prompted, {**request, "room": room})
            return step + np.int32(1), state, self._record(outputs, step, drawn, live)

        step, state, outputs = lax.while_loop(more, advance, (jnp.int32(0), state, self._outputs(begun)))
        results = {"steps": step, **outputs}
        return STATE.slots(state) | OUTPUT.slots(results)

    def _outputs(self, begun: StepArrays) -> StepArrays:
        every = {"tokens": begun["drawn"], "logprobs": begun["logprob"]}
        if self.logits == "all":
            every["logits"] = begun["shown"]
        made = {name: jnp.repeat(first[:, None], self.chunk, axis=1) for name, first in every.items()}
        return made | ({"logits": begun["shown"]} if self.logits == "last" else {})

    def _record(self, outputs: StepArrays, step: jax.Array, drawn: StepArrays, live: jax.Array) -> StepArrays:
        shown = {"tokens": drawn["drawn"], "logprobs": drawn["logprob"]}
        if self.logits == "all":
            shown["logits"] = drawn["shown"]
        made = {name: outputs[name].at[:, step].set(value) for name, value in shown.items()}
        if self.logits == "last":
            made["logits"] = jnp.where(live[:, None], drawn["shown"], outputs["logits"])
        return made

    def _step(
        self, weights: StepArrays, state: StepArrays, prompted: jax.Array, request: StepArrays
    ) -> tuple[StepArrays, StepArrays]:
        fed = (~state["done"]).astype(jnp.int32)
        logits, cache = self._forward(weights, state, fed)
        names = ("counts", "generated", "lengths", "token", "done")
        drawn = self.draw(logits, prompted, fed=fed, **{name: state[name] for name in names}, **request)
        return {**state, **cache, **{name: drawn[name] for name in names}}, drawn

    def _forward(self, weights: StepArrays, state: StepArrays, fed: jax.Array) -> tuple[jax.Array, StepArrays]:
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
            own = arrays_under(state, f"cache/{layer}/")
            x, new = self.decoder.block(arrays_under(weights, f"layers/{layer}/"), x, own, spans[window])
            cache |= {f"cache/{layer}/{name}": array for name, array in new.items()}
        return self.decoder.head(weights, x[:, 0]), cache
