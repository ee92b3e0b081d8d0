"""Calls any phase of any model: pads along the bucketed axes, runs the entry, cuts the outputs back."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from aot import buckets
from aot.bundle.records import PhaseRecord
from aot.errors import InputError, NoEntryError
from aot.precompile import Combo
from aot.runtime.entries import Entry
from aot.runtime.execute import Executor, Inputs, State, checked

Arrays = Mapping[str, "np.ndarray[Any, Any]"]

_ROWS, _TOKENS = "batch_size", "prefill_length"


class Outputs(dict[str, "np.ndarray[Any, Any]"]):
    """Outputs by name, cut back to the caller's sizes, and the state that a later call may continue."""

    def __init__(self, outputs: Arrays, state: State | None) -> None:
        super().__init__(outputs)
        self.state = state


class Candidates:
    """The entries of one phase, from which each call takes the least padded that will do."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {entry.combo: entry for entry in entries}
        self._tables: dict[tuple[Combo | None, Combo | None], buckets.Table | None] = {}
        self.first = next(iter(self._entries.values()))

    def choose(self, rows: int, tokens: int | None, state: State | None, source: State | None) -> Entry:
        """The entry for so many rows of so many tokens that continues the states. Raises NoEntryError."""
        held = (state.entry.combo if state else None, source.entry.combo if source else None)
        if held not in self._tables:
            self._tables[held] = self._table(*held)
        if (table := self._tables[held]) is None:
            key = next(combo.key for combo in held if combo is not None)
            raise NoEntryError(f"request: no entry of this phase continues a state of entry {key[:12]}…")
        need = buckets.Need(rows, tokens, props=table.combos[0].required_props)
        combo = table.choose(need)
        if combo is None:
            raise table.refusal(need)
        return self._entries[combo]

    def _table(self, state: Combo | None, source: Combo | None) -> buckets.Table | None:
        alike = [
            combo
            for combo in self._entries
            if all(held is None or _alike(combo, held) for held in (state, source))
            and (state is None or combo.batch_size == state.batch_size)
        ]
        return buckets.Table(alike) if alike else None


def call(
    executor: Executor,
    candidates: Candidates,
    inputs: Mapping[str, Any],
    state: State | None,
    source: State | None,
    defaults: Callable[[Entry], Inputs],
) -> Outputs:
    """Runs the least padded of the candidate entries; `defaults` gives an entry's inputs that may be left out.

    Raises InputError for inputs of other names, ranks or sizes, NoEntryError where none is large enough.
    """
    name = candidates.first.phase
    phase = candidates.first.index.phases[name]
    for place, held in (("state", state), ("source", source)):
        _check_state(held, candidates.first, f"phase {name}: {place}")
    arrays = {key: _array(value, f"phase {name}: input {key}") for key, value in inputs.items()}
    sizes = _sizes(phase, arrays, name)
    rows = sizes.get(_ROWS, 1 if state is None else state.rows)
    if state is not None and rows != state.rows:
        raise InputError(f"phase {name}: the inputs have {rows} rows, the state that they continue has {state.rows}")
    entry = candidates.choose(rows, sizes.get(_TOKENS), state, source)
    sizes.setdefault(_ROWS, rows)
    padded = {key: _padded(array, phase.inputs[key], entry, key) for key, array in arrays.items()}
    rest = {key: value for key, value in defaults(entry).items() if key in phase.inputs and key not in padded}
    taken = rest | checked(entry, padded, rest.keys())
    outputs, buffers = executor.run(entry, taken, state, source)
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


def _alike(a: Combo, b: Combo) -> bool:
    return (a.max_length, a.required_props) == (b.max_length, b.required_props)


def _padded(
    array: "np.ndarray[Any, Any]", axes: tuple[str | None, ...], entry: Entry, name: str
) -> "np.ndarray[Any, Any]":
    """The array with zeros behind it along the axes that follow a dimension, as far as the entry's combo goes."""
    if name in entry.inputs and array.shape == entry.inputs[name].shape:
        return array
    extents = (
        size if axis is None else getattr(entry.combo, axis) for axis, size in zip(axes, array.shape, strict=True)
    )
    widths = [(0, extent - size) for extent, size in zip(extents, array.shape, strict=True)]
    return np.pad(array, widths) if array.ndim else array


def _cut(
    array: "np.ndarray[Any, Any]", axes: tuple[str | None, ...], sizes: Mapping[str, int]
) -> "np.ndarray[Any, Any]":
    return array[tuple(slice(None if dimension is None else sizes.get(dimension)) for dimension in axes)]
