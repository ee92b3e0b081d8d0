"""Watching a loaded model: holding it to some entries, and recording what it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ran:
    """One run of an entry: its phase, (batch, prefill) of its combo, rows that hold a prompt, decode steps."""

    phase: str
    shape: tuple[int, int]
    prompts: int
    steps: int


@contextmanager
def only(model, *shapes) -> Iterator[None]:
    """Holds a model to the entries of some (batch, prefill) shapes."""
    entries = model._entries
    model._entries = {at: e for at, e in entries.items() if (at[0].batch_size, at[0].prefill_length) in shapes}
    assert model._entries, shapes
    model.__dict__.pop("_combos", None)
    try:
        yield
    finally:
        model._entries = entries
        del model.__dict__["_combos"]


@contextmanager
def recorded(model) -> Iterator[list[Ran]]:
    """Lists what the model runs meanwhile."""
    ran, run = [], model._executors[0].run

    def note(entry, inputs, *states):
        prompts = int(np.count_nonzero(inputs.get("lengths", 0)))
        shape = (entry.combo.batch_size, entry.combo.prefill_length)
        outputs, buffers = run(entry, inputs, *states)
        ran.append(Ran(entry.phase.split("/")[0], shape, prompts, int(outputs.get("steps", 0))))
        return outputs, buffers

    model._executors[0].run = note
    try:
        yield ran
    finally:
        model._executors[0].run = run


def shapes(model):
    """All (batch, prefill) shapes that a model has entries for."""
    return sorted({(combo.batch_size, combo.prefill_length) for combo, _ in model._entries})


def prompts(*lengths, seed=0):
    """Random prompts of some lengths, of tokens that neither pad nor end."""
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 300, length).tolist() for length in lengths]


def padded(rows):
    """The arguments of a prefill: right-padded tokens, and lengths."""
    width = max(map(len, rows))
    return {"tokens": [[*row, *[0] * (width - len(row))] for row in rows], "lengths": [len(row) for row in rows]}


def log_softmax(logits):
    wide = np.asarray(logits, np.float64)
    wide = wide - wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
