"""Calls any phase of any model: pads along the bucketed axes, runs the entry, cuts the outputs back."""

from collections.abc import Callable, Mapping
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
    defaults: Callable[[int], Arrays],
) -> Outputs:
    """Runs the least padded of the candidate entries, all of one phase; `defaults` gives inputs for so many rows.

    Raises InputError for inputs of other names, ranks or sizes, NoEntryError where none is large enough.
    """
    name = candidates[0].phase
    phase = candidates[0].index.phases[name]
    for place, held in (("state", state), ("source", source)):
        _check_state(held, candidates[0], f"phase {name}: {place}")
    arrays = {key: _array(value, f"phase {name}: input {key}") for key, value in inputs.items()}
    sizes = _sizes(phase, arrays, name)
    rows = sizes.get(_ROWS, 1 if state is None else state.rows)
    if state is not None and rows != state.rows:
        raise InputError(f"phase {name}: the inputs have {rows} rows, the state that they continue has {state.rows}")
    arrays = {key: value for key, value in defaults(rows).items() if key in phase.inputs} | arrays
    sizes = _sizes(phase, arrays, name)
    entry = _chosen(candidates, sizes, state, source)
    padded = {key: _padded(array, _extents(phase.inputs[key], entry.combo)) for key, array in arrays.items()}
    outputs, buffers = executor.run(entry, checked(entry, padded), state, source)
    cut = {key: _cut(array, phase.outputs[key], sizes) for key, array in outputs.items()}
    return Outputs(cut, State(entry, buffers, rows) if buffers else None)


def _check_state(state: Any, entry: Entry, place: str) -> None:
    if state is not None and not isinstance(state, State):
        raise InputError(f"{place}: must be the `state` of what an earlier call gave, got {type(state).__name__}")
    if state is not None and state.entry.index is not entry.index:
        raise InputError(f"{place}: belongs to another loaded model; pass one that this model gave")


def _array(value: Any, place: str) -> "np.ndarray[Any, Any]":
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{place}: is no array ({str(error).split('. ')[0]}); pad its rows to one length") from error


def _sizes(phase: PhaseRecord, arrays: Arrays, name: str) -> dict[str, int]:
    """The size of each precompile dimension, as the inputs have it."""
    sizes: dict[str, int] = {}
    for key, array in arrays.items():
        axes = phase.inputs.get(key)
        if axes is None:
            raise InputError(f"phase {name}: unknown input {key!r}; it takes {', '.join(sorted(phase.inputs))}")
        if array.ndim != len(axes):
            raise InputError(f"phase {name}: input {key} has {array.ndim} axes, it takes {len(axes)}: {list(axes)}")
        if 0 in array.shape:
            raise InputError(f"phase {name}: input {key} is empty, its shape is {array.shape}")
        for dimension, size in zip(axes, array.shape, strict=True):
            if dimension is not None and sizes.setdefault(dimension, size) != size:
                raise InputError(
                    f"phase {name}: input {key} has {size} for {dimension}, another has {sizes[dimension]}"
                )
    return sizes


def _chosen(candidates: list[Entry], sizes: Mapping[str, int], state: State | None, source: State | None) -> Entry:
    for held in (held for held in (state, source) if held is not None):
        candidates = [e for e in candidates if _alike(e.combo, held.entry.combo)]
        if held is state:
            candidates = [e for e in candidates if e.combo.batch_size == held.entry.combo.batch_size]
        if not candidates:
            raise NoEntryError(f"request: no entry of this phase continues a state of entry {held.entry.key[:12]}…")
    combos = [entry.combo for entry in candidates]
    need = buckets.Need(sizes.get(_ROWS, 1), sizes.get(_TOKENS), props=combos[0].required_props)
    combo = buckets.choose(need, combos)
    if combo is None:
        raise buckets.refusal(need, combos)
    return next(entry for entry in candidates if entry.combo == combo)


def _alike(a: Combo, b: Combo) -> bool:
    return (a.max_length, a.required_props) == (b.max_length, b.required_props)


def _extents(axes: tuple[str | None, ...], combo: Combo) -> tuple[int | None, ...]:
    return tuple(None if dimension is None else getattr(combo, dimension) for dimension in axes)


def _padded(array: "np.ndarray[Any, Any]", extents: tuple[int | None, ...]) -> "np.ndarray[Any, Any]":
    widths = [(0, 0 if extent is None else extent - size) for extent, size in zip(extents, array.shape, strict=True)]
    return np.pad(array, widths) if array.ndim else array


def _cut(
    array: "np.ndarray[Any, Any]", axes: tuple[str | None, ...], sizes: Mapping[str, int]
) -> "np.ndarray[Any, Any]":
    return array[tuple(slice(None if dimension is None else sizes.get(dimension)) for dimension in axes)]
