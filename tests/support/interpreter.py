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
    repeat = chain.repeat
    if repeat is None:
        called(chain.calls, slots)
    else:
        called(chain.calls[: repeat.begin], slots)
        turns, missing = [], {slot: slots[slot] for slot in repeat.stacked}
        while len(turns) < repeat.most and slots[repeat.slot]:
            called(chain.calls[repeat.begin : repeat.end], slots)
            turns.append({slot: slots[slot] for slot in repeat.stacked})
        filled = [*turns, *[missing] * (repeat.most - len(turns))]
        slots |= {slot: np.stack([turn[slot] for turn in filled], axis=1) for slot in repeat.stacked}
        slots[repeat.count] = np.int32(len(turns))
        called(chain.calls[repeat.end :], slots)
    outputs = {slot.removeprefix("output/"): array for slot, array in slots.items() if slot.startswith("output/")}
    return outputs, {slot: array for slot, array in slots.items() if slot.startswith("state/")}


def called(calls, slots):
    """Makes calls over slots, which hold afterwards what these give."""
    for call in calls:
        arrays = dict(call.program.arguments)
        for name, slot in call.takes:
            if slot.startswith("state/"):
                slots.setdefault(slot, np.zeros(arrays[name].shape, arrays[name].dtype))
            given = slots[slot]
            assert (tuple(given.shape), str(given.dtype)) == (arrays[name].shape, arrays[name].dtype), slot
        made = jitted(call.program)(**{name: slots[slot] for name, slot in call.takes})
        assert set(made) == {name for name, _ in call.gives}
        slots |= {slot: made[name] for name, slot in call.gives}


def greedy(rows, limit):
    """The inputs of a request for tokens by argmax, which nothing ends but `limit`."""
    neutral = {"top_p": 1, "repetition_penalty": 1}
    drawn = {
        name: np.full((rows, *shape), neutral.get(name, 0), dtype) for name, (shape, dtype) in drawing.OPTIONS.items()
    }
    ending = {"limit": np.full(rows, limit, np.int32), "eos": np.full(1, -1, np.int32)}
    return {**drawn, **ending, "pad": np.int32(0)}
