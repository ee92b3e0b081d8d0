"""Calls any phase of any model: pads along the bucketed axes, runs the entry, cuts the outputs back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from aot import buckets
from aot.bundle.records import PhaseRecord
from aot.errors import InputError, NoEntryError
from aot.precompile import Combo
from aot.runtime.entries import Entry
from aot.runtime.execute import Executor, State, checked

Arrays = Mapping[str, "np.ndarray[Any, Any]"]

_ROWS, _TOKENS = "batch_size", "prefill_length"


class Outputs(dict[str, "np.ndarray[Any, Any]"]):
    """Outputs by name, cut back to the caller's sizes, and the state that a later call may continue."""

    def __init__(self, outputs: Arrays, state: State | None) -> None:
        super().__init__(outputs)
        self.state = state


def call(
    executor: Executor,
    candidates: list[Entry],
    inputs: Mapping[str, Any],
    state: State | None,
    source: State | None,
) -> Outputs:
    """Runs the least padded of the candidate entries, all of one phase.

    Raises InputError for inputs of other names, ranks or sizes, NoEntryError where none is large enough.
    """
    phase = candidates[0].index.phases[candidates[0].phase]
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    sizes = _sizes(phase, arrays, candidates[0].phase)
    entry = _chosen(candidates, sizes, state)
    wanted = {name: _extents(axes, entry.combo) for name, axes in phase.inputs.items() if name in arrays}
    padded = {name: _padded(array, wanted.get(name, ())) for name, array in arrays.items()}
    outputs, buffers = executor.run(entry, checked(entry, padded), state, source)
    cut = {name: _cut(array, phase.outputs[name], sizes) for name, array in outputs.items()}
    return Outputs(cut, State(entry, buffers, sizes.get(_ROWS, 1)) if buffers else None)


def _sizes(phase: PhaseRecord, arrays: Arrays, name: str) -> dict[str, int]:
    """The size of each precompile dimension, as the inputs have it."""
    sizes: dict[str, int] = {}
    for key, array in arrays.items():
        axes = phase.inputs.get(key)
        if axes is None:
            raise InputError(f"phase {name}: unknown input {key!r}; it takes {', '.join(sorted(phase.inputs))}")
        if array.ndim != len(axes):
            raise InputError(f"phase {name}: input {key} has {array.ndim} axes, it takes {len(axes)}: {list(axes)}")
        for dimension, size in zip(axes, array.shape, strict=True):
            if dimension is not None and sizes.setdefault(dimension, size) != size:
                raise InputError(
                    f"phase {name}: input {key} has {size} for {dimension}, another has {sizes[dimension]}"
                )
    return sizes


def _chosen(candidates: list[Entry], sizes: Mapping[str, int], state: State | None) -> Entry:
    if state is not None:
        alike = [e for e in candidates if _continues(e.combo, state.entry.combo)]
        if not alike:
            raise NoEntryError(f"phase {candidates[0].phase}: no entry continues a state of {state.entry.key[:12]}…")
        candidates = alike
    combos = [entry.combo for entry in candidates]
    need = buckets.Need(sizes.get(_ROWS, 1), sizes.get(_TOKENS), props=combos[0].required_props)
    combo = buckets.choose(need, combos)
    if combo is None:
        raise buckets.refusal(need, combos)
    return next(entry for entry in candidates if entry.combo == combo)


def _continues(combo: Combo, before: Combo) -> bool:
    return (combo.batch_size, combo.max_length, combo.required_props) == (
        before.batch_size,
        before.max_length,
        before.required_props,
    )


def _extents(axes: tuple[str | None, ...], combo: Combo) -> tuple[int | None, ...]:
    return tuple(None if dimension is None else getattr(combo, dimension) for dimension in axes)


def _padded(array: "np.ndarray[Any, Any]", extents: tuple[int | None, ...]) -> "np.ndarray[Any, Any]":
    widths = [(0, 0 if extent is None else extent - size) for extent, size in zip(extents, array.shape, strict=True)]
    return np.pad(array, widths) if widths else array


def _cut(
    array: "np.ndarray[Any, Any]", axes: tuple[str | None, ...], sizes: Mapping[str, int]
) -> "np.ndarray[Any, Any]":
    return array[tuple(slice(None if dimension is None else sizes.get(dimension)) for dimension in axes)]
