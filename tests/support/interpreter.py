"""Runs chains as they are defined, with jax and no bundle."""

import functools

import jax
import numpy as np

from aot.programs import drawing


@functools.cache
def jitted(program):
    return jax.jit(program.function)


def run(chain, weights, inputs, state=None):
    """The outputs of a chain by name, and the state after it; state that is not there begins with zeros."""
    slots = {f"weight/{path}": array for path, array in weights.items()}
    slots |= {f"input/{name}": array for name, array in inputs.items()} | (state or {})
    for call in chain.calls:
        arrays = dict(call.program.arguments)
        for name, slot in call.takes:
            if slot.startswith("state/"):
                slots.setdefault(slot, np.zeros(arrays[name].shape, arrays[name].dtype))
            given = slots[slot]
            assert (tuple(given.shape), str(given.dtype)) == (arrays[name].shape, arrays[name].dtype), slot
        made = jitted(call.program)(**{name: slots[slot] for name, slot in call.takes})
        assert set(made) == {name for name, _ in call.gives}
        slots |= {slot: made[name] for name, slot in call.gives}
    outputs = {slot.removeprefix("output/"): array for slot, array in slots.items() if slot.startswith("output/")}
    return outputs, {slot: array for slot, array in slots.items() if slot.startswith("state/")}


def greedy(rows, limit):
    """The inputs of a request for tokens by argmax, which nothing ends but `limit`."""
    neutral = {"top_p": 1, "repetition_penalty": 1}
    drawn = {
        name: np.full((rows, *shape), neutral.get(name, 0), dtype) for name, (shape, dtype) in drawing.OPTIONS.items()
    }
    ending = {"limit": np.full(rows, limit, np.int32), "eos": np.full(1, -1, np.int32)}
    return {**drawn, **ending, "pad": np.int32(0)}
