"""Calls any phase of any model: pads along the bucketed axes, runs the entry, cuts the outputs back."""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from aot import buckets
from aot.bundle.index.records import PhaseRecord
from aot.chain import Axes
from aot.errors import InputError, NoEntryError
from aot.precompile import IMAGE, Combo
from aot.runtime import execute, values
from aot.runtime.device.client import numpy_dtype
from aot.runtime.execute import Executor, Inputs, State
from aot.runtime.fitting.entries import Entry
from aot.runtime.values import HostArrays
from aot.slots import STATE

Slices = tuple[slice, ...]
InputShapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Shapes of the inputs that a caller gives, by name."""

_ROWS, _TOKENS = "batch_size", "prefill_length"
_REMEMBERED = 1 << 12  # shapes that a phase keeps in mind


class Outputs(dict[str, "np.ndarray[Any, Any]"]):
    """Outputs by name, cut back to the caller's sizes, and the state that a later call may continue."""

    def __init__(self, outputs: HostArrays, state: State | None) -> None:
        super().__init__(outputs)
        self.state = state


class _Given(NamedTuple):
    """An input that the caller gives, as the entry takes it."""

    name: str
    dtype: "np.dtype[Any]"
    shape: tuple[int, ...]
    place: Slices | None
    """The place of the caller's array in that shape; None where it needs no padding."""


class _Fit(NamedTuple):
    """What the shapes of inputs decide."""

    entry: Entry
    rows: int
    given: tuple[_Given, ...]
    absent: frozenset[str]
    """Inputs that the caller leaves out."""
    cuts: tuple[tuple[str, Slices], ...]
    """Outputs with padding, and where in them is none."""


class Candidates:
    """The entries of one phase, from which each call takes the least padded that will do."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {entry.combo: entry for entry in entries}
        self._tables: dict[_Like, buckets.Table] = {}
        self.first = next(iter(self._entries.values()))
        self._fits = lru_cache(_REMEMBERED)(self._fitting)  # a call must cost microseconds

    def fit(self, arrays: HostArrays, state: State | None, source: State | None) -> _Fit:
        """The entry for these inputs that continues the states. Raises InputError, NoEntryError."""
        shapes = tuple([(name, array.shape) for name, array in arrays.items()])
        held = None if state is None else state.rows
        return self._fits(shapes, state and state.entry.combo, source and source.entry.combo, held)

    def _fitting(self, shapes: InputShapes, state: Combo | None, source: Combo | None, held: int | None) -> _Fit:
        name = self.first.phase
        phase = self.first.index.phases[name]
        sizes = _sizes(phase, shapes, name)
        rows = sizes.setdefault(_ROWS, 1 if held is None else held)
        if held is not None and rows != held:
            raise InputError(f"phase {name}: the inputs have {rows} rows, the state that they continue has {held}")
        given_names = dict(shapes).keys()
        image = tuple(sizes.get(side) for side in IMAGE)
        like = _Like(state, source, frozenset(phase.partial).intersection(given_names), image)
        entry = self._choose(rows, sizes.get(_TOKENS), like)
        absent = entry.inputs.keys() - given_names
        execute.check_names(entry, given_names, absent)
        given = tuple(_given(entry, given_name, shape, phase.inputs[given_name]) for given_name, shape in shapes)
        cuts = ((output, _cut(entry, sizes, axes)) for output, axes in phase.outputs.items())
        return _Fit(
            entry, rows, given, frozenset(absent), tuple((output, place) for output, place in cuts if place is not None)
        )

    def _choose(self, rows: int, tokens: int | None, like: "_Like") -> Entry:
        if like not in self._tables:
            self._tables[like] = self._table(like)
        table = self._tables[like]
        need = buckets.Need(rows, tokens, props=table.combos[0].required_props)
        combo = table.choose(need)
        if combo is None:
            raise table.refusal(need)
        return self._entries[combo]

    def _table(self, like: "_Like") -> buckets.Table:
        """The entries that are like a call in all but rows and tokens; of those that hold its images the narrowest."""
        alike = [combo for combo in self._entries if like.continues(combo)]
        if not alike:
            combo_key = next(combo.key for combo in (like.state, like.source) if combo is not None)
            raise NoEntryError(f"request: no entry of this phase continues a state of entry {combo_key[:12]}…")
        taking = [combo for combo in alike if not like.partial or like.partial <= self._entries[combo].inputs.keys()]
        if not taking:
            raise NoEntryError(f"request: no such entry takes the input {min(like.partial)!r}")
        holding = [combo for combo in taking if like.holds(combo)]
        if not holding:
            shapes = sorted({str(list(map(combo.dimensions().get, IMAGE))) for combo in taking})
            raise NoEntryError(
                f"request: no entry takes images of the shape {list(like.image)}, only {', '.join(shapes)}; bring them "
                "to one of these, or add theirs to precompile and rebuild"
            )
        least = min(combo.vision_batch_size or 0 for combo in holding)
        return buckets.Table([combo for combo in holding if (combo.vision_batch_size or 0) == least])


class _Like(NamedTuple):
    """What entries must have in common with a call, beside rows and tokens."""

    state: Combo | None
    source: Combo | None
    partial: frozenset[str]
    """Inputs given that only some entries take."""
    image: tuple[int | None, ...]
    """Images, channels, height and width of what is given, where there are any."""

    def continues(self, combo: Combo) -> bool:
        """Whether the states can be continued there."""
        return all(held is None or combo.shares_state(held) for held in (self.state, self.source)) and (
            self.state is None or combo.batch_size == self.state.batch_size
        )

    def holds(self, combo: Combo) -> bool:
        """Whether the images fit: in number, and their sides exactly, for they would be others with a border."""
        images, *sides = self.image
        room, *built = (getattr(combo, name) for name in IMAGE)
        return (images is None or (room or 0) >= images) and all(
            side is None or side == own for side, own in zip(sides, built, strict=True)
        )


def run_phase(
    executor: Executor,
    candidates: Candidates,
    inputs: Mapping[str, Any],
    state: State | None,
    source: State | None,
    defaults: Callable[[Entry], Inputs],
) -> Outputs:
    """Runs the least padded of the candidate entries; `defaults` gives an entry's inputs that may be left out.

    Raises InputError for inputs of other names, ranks, sizes or values, NoEntryError where none is large enough.
    """
    phase = candidates.first.phase
    for place, held in (("state", state), ("source", source)):
        if held is not None:
            _check_state(held, candidates.first, place)
    arrays = {name: values.as_array(value, phase, name) for name, value in inputs.items()}
    fit = candidates.fit(arrays, state, source)
    _check_source(fit.entry, source)
    taken = _absent(fit, arrays, defaults) if fit.absent else {}
    for given in fit.given:
        array = arrays[given.name] if given.place is None else _padded(arrays[given.name], given)
        taken[given.name] = (
            array if array.dtype == given.dtype else execute.cast_input(array, given.dtype, phase, given.name)
        )
    if fit.entry.index.generation is not None:
        before = None if state is None or "lengths" not in arrays else executor.held(state)
        values.check_values(fit.entry, arrays, taken, before, None if source is None else source.rows)
    outputs, buffers = executor.run(fit.entry, taken, state, source)
    for name, cut in fit.cuts:
        outputs[name] = outputs[name][cut]
    return Outputs(outputs, State(fit.entry, buffers, fit.rows) if buffers else None)


def _absent(fit: _Fit, arrays: HostArrays, defaults: Callable[[Entry], Inputs]) -> dict[str, Any]:
    """The inputs that the caller leaves out. Raises InputError where one has no default."""
    rest = defaults(fit.entry)
    execute.check_names(fit.entry, arrays.keys(), fit.absent & rest.keys())
    return {name: rest[name] for name in fit.absent}


def _check_state(state: Any, entry: Entry, place: str) -> None:
    where = f"phase {entry.phase}: {place}"
    if not isinstance(state, State):
        raise InputError(f"{where}: must be the `state` of what an earlier call gave, got {type(state).__name__}")
    if state.entry.index is not entry.index:
        raise InputError(f"{where}: belongs to another loaded model; pass one that this model gave")


def _check_source(entry: Entry, source: State | None) -> None:
    """Raises InputError where a state is not what an entry reads."""
    for path, wanted in entry.sources.items():
        if source is None:
            raise InputError(f"phase {entry.phase}: reads another state; pass what a prefill left as `source`")
        held = source.entry.left.get(STATE.slot(path))
        if held is None or held.shape != wanted.shape:
            found = "nothing" if held is None else f"the shape {list(held.shape)}"
            raise InputError(
                f"phase {entry.phase}: source: has {found} for {path}, this phase reads {list(wanted.shape)}; call the "
                "phase for as many rows"
            )


def _sizes(phase: PhaseRecord, shapes: InputShapes, name: str) -> dict[str, int]:
    """The size of each precompile dimension, as the inputs have it."""
    sizes: dict[str, int] = {}
    for given_name, shape in shapes:
        axes = phase.inputs.get(given_name)
        if axes is None:
            raise InputError(f"phase {name}: unknown input {given_name!r}; it takes {', '.join(sorted(phase.inputs))}")
        if len(shape) != len(axes):
            raise InputError(
                f"phase {name}: input {given_name} has {len(shape)} axes, it takes {len(axes)}: {list(axes)}"
            )
        if 0 in shape:
            raise InputError(f"phase {name}: input {given_name} is empty, its shape is {shape}")
        for dimension, size in zip(axes, shape, strict=True):
            if dimension is not None and sizes.setdefault(dimension, size) != size:
                raise InputError(
                    f"phase {name}: input {given_name} has {size} for {dimension}, another has {sizes[dimension]}"
                )
    return sizes


def _given(entry: Entry, name: str, shape: tuple[int, ...], axes: Axes) -> _Given:
    """An input that is padded along the axes that follow a dimension. Raises InputError for one of another shape."""
    argument = entry.inputs[name]
    wanted = argument.shape
    sides = zip(shape, wanted, axes, strict=False)
    if len(shape) != len(wanted) or any(size > side or (size < side and axis is None) for size, side, axis in sides):
        raise InputError(f"phase {entry.phase}: input {name} has shape {shape}, this entry takes {wanted}")
    return _Given(name, numpy_dtype(argument.dtype), wanted, None if shape == wanted else tuple(map(slice, shape)))


def _padded(array: "np.ndarray[Any, Any]", given: _Given) -> "np.ndarray[Any, Any]":
    """The array with zeros behind it."""
    whole = np.zeros(given.shape, array.dtype)
    whole[given.place] = array
    return whole


def _cut(entry: Entry, sizes: Mapping[str, int], axes: Axes) -> Slices | None:
    """The place of the caller's part in an output; None where all of it is."""
    ends = [None if axis is None or sizes.get(axis) == getattr(entry.combo, axis) else sizes.get(axis) for axis in axes]
    return tuple(map(slice, ends)) if any(ends) else None
