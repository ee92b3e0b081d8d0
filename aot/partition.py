"""Partition: over which axes of a device mesh each axis of an array is split, by ordered rules over paths.

Paths are those of parameters (`layers/3/attention/q_proj`), inputs (`input/tokens`), state (`state/cache/3/key`) and
what calls hand to each other (`value/x`). A rule names mesh axes itself (it is *written*, in a manifest), or names the
model's dimensions (it is *derived*), which a table then leads to mesh axes.
"""

import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from aot.slots import INPUT, OUTPUT, STATE, VALUE, prefixes

Mesh = Mapping[str, int]
"""The size of each named axis of the devices, in the order in which they are laid out."""
AxisEntry = str | tuple[str, ...] | None
"""The mesh axes that one array axis is split over; None where every device has all of it."""
Axes = tuple[AxisEntry, ...]

_SLOTS = prefixes(STATE, INPUT, VALUE, OUTPUT)
"""How paths begin that are not those of weights."""
DECODE = "decode"
"""The phase that has a table of its own, if there is one. State rests as that phase wants it."""


@dataclass(frozen=True)
class Dimensions:
    """What a model calls the axes of its arrays."""

    arrays: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    """(pattern, the dimension of each axis), the first match counts."""
    parts: Mapping[str, int] = field(default_factory=dict, hash=False)
    """How many parts a dimension has that must stay whole, where it has fewer than an array has places: heads."""


@dataclass(frozen=True)
class Rules:
    """`partition` of a manifest, but for the mesh."""

    written: tuple[tuple[str, Axes], ...] = ()
    table: Mapping[str, AxisEntry] = field(default_factory=dict)
    """Mesh axes by the name of a dimension."""
    decode: Mapping[str, AxisEntry] = field(default_factory=dict)
    """What `table` says otherwise for the phase decode and for state."""
    replicate: bool = False
    """Whether an axis that the mesh does not divide stays whole; else it is a fault."""
    gather: bool = False
    """Whether weights that are split are put together once a generation, for all of its calls."""

    @property
    def given(self) -> bool:
        """Whether there is any rule, or a table that makes some."""
        return bool(self.written or self.table or self.decode)


@dataclass(frozen=True)
class Layout:
    """How one array lies on a mesh."""

    axes: Axes
    """One entry for each axis of the array."""
    rule: str | None
    """The pattern that matched; None for a value or output that no rule matches, which every device has whole."""
    whole: tuple[str, ...] = ()
    """Why axes are not split that rules would split."""

    @property
    def split(self) -> bool:
        return any(self.axes)


def split_count(mesh: Mesh, *entries: AxisEntry) -> int:
    """Into how many parts entries split an array."""
    return math.prod(mesh[name] for entry in entries for name in axis_names(entry))


def axis_names(entry: AxisEntry) -> tuple[str, ...]:
    """The mesh axes of an entry."""
    return (entry,) if isinstance(entry, str) else entry or ()


def device_share(shape: tuple[int, ...], mesh: Mesh, axes: Axes) -> tuple[int, ...]:
    """The shape of what one device has of an array."""
    return tuple(extent // split_count(mesh, entry) for extent, entry in zip(shape, axes, strict=True))


class Layouts:
    """Lays the arrays of a model on one mesh, and books which rule matched what."""

    def __init__(self, mesh: Mesh, rules: Rules) -> None:
        self.mesh, self.rules = mesh, rules
        self.matches: dict[str, set[str]] = {pattern: set() for pattern, _ in rules.written}
        """The paths that each rule was the first to match."""
        self.unmatched: set[str] = set()
        self.faults: dict[str, None] = {}
        self._shadowed: set[str] = set()
        self.laid: dict[tuple[str, tuple[int, ...], bool, Dimensions], Layout] = {}
        """Layouts by path, shape, whether decoding has a say in it, and what the combo calls the axes."""
        self._weights: dict[str, Axes] = {}

    def of(self, path: str, shape: tuple[int, ...], phase: str, dimensions: Dimensions) -> Layout:
        """The layout of an array. What is wrong with it is booked; it is whole on every device then."""
        is_weight = not path.startswith(_SLOTS)
        decoding = not is_weight and (phase == DECODE or STATE.holds(path))
        known = path, shape, decoding, dimensions
        if known not in self.laid:
            self.laid[known] = made = self._laid(path, shape, decoding, dimensions)
            if is_weight and self._weights.setdefault(path, made.axes) != made.axes:
                self._fault(f"{path!r} lies otherwise in one combo than in another; weights are placed once for all")
        return self.laid[known]

    def wrong(self) -> Iterator[str]:
        """What is wrong with the rules, now that every array has been laid out."""
        if not self.rules.given:
            mesh = spelled_mesh(self.mesh)
            yield f"has neither rules nor axes, and the mesh {mesh} more than one device; give either"
            return
        yield from dict.fromkeys(map(general_path, self.faults))
        if lost := dict.fromkeys(map(general_path, sorted(self.unmatched))):
            yield f"no rule matches {', '.join(lost)}; add one, or axes"
        for pattern, _ in self.rules.written:
            if not self.matches[pattern]:
                shadowed = pattern in self._shadowed
                cause = "matches only what earlier rules match" if shadowed else "matches no array"
                yield f"rule {pattern!r} {cause}; remove it, or {'move it up' if shadowed else 'correct it'}"

    def _laid(self, path: str, shape: tuple[int, ...], decoding: bool, dimensions: Dimensions) -> Layout:
        matching = [(pattern, axes) for pattern, axes in self.rules.written if _matches(pattern, path)]
        self._shadowed.update(pattern for pattern, _ in matching[1:])
        if matching:
            pattern, axes = matching[0]
            return self._booked(path, pattern, self._written(path, shape, pattern, axes))
        if self.rules.table or self.rules.decode:
            for pattern, called in dimensions.arrays:
                if _matches(pattern, path):
                    return self._booked(path, pattern, self._derived(path, shape, called, decoding, dimensions))
        if not path.startswith(prefixes(VALUE, OUTPUT)):
            self.unmatched.add(path)
        return Layout((None,) * len(shape), None)

    def _booked(self, path: str, pattern: str, made: tuple[Axes, tuple[str, ...]]) -> Layout:
        self.matches.setdefault(pattern, set()).add(path)
        return Layout(made[0], pattern, made[1])

    def _written(self, path: str, shape: tuple[int, ...], pattern: str, axes: Axes) -> tuple[Axes, tuple[str, ...]]:
        if len(axes) > len(shape):
            self._fault(
                f"rule {pattern!r} has {len(axes)} entries, {path!r} has {len(shape)} axes {list(shape)}; shorten it"
            )
            axes = ()
        used = [name for entry in axes for name in axis_names(entry)]
        if twice := sorted({name for name in used if used.count(name) > 1}):
            self._fault(f"rule {pattern!r} splits two axes of one array over the mesh axis {twice[0]!r}; leave one")
            axes = ()
        return self._divided(path, shape, (*axes, *(None,) * (len(shape) - len(axes))), shape)

    def _derived(
        self, path: str, shape: tuple[int, ...], called: tuple[str | None, ...], decoding: bool, dimensions: Dimensions
    ) -> tuple[Axes, tuple[str, ...]]:
        table = {**self.rules.table, **self.rules.decode} if decoding else self.rules.table
        called = (*called, *(None,) * (len(shape) - len(called)))
        parts = tuple(dimensions.parts.get(name or "", extent) for name, extent in zip(called, shape, strict=True))
        return self._divided(path, shape, _once(table.get(name) if name else None for name in called), parts)

    def _divided(
        self, path: str, shape: tuple[int, ...], axes: Axes, counts: tuple[int, ...]
    ) -> tuple[Axes, tuple[str, ...]]:
        """The axes without those that the mesh does not divide, and why each is left out."""
        kept: list[AxisEntry] = []
        whole = []
        for axis, (entry, count) in enumerate(zip(axes, counts, strict=True)):
            if unknown := [name for name in axis_names(entry) if name not in self.mesh]:
                self._fault(f"mesh {spelled_mesh(self.mesh)} has no axis {unknown[0]!r}, over which {path!r} is split")
                entry = None
            into = split_count(self.mesh, entry)
            if count % into:
                heads = "" if count == shape[axis] else f" parts of {shape[axis] // count}"
                why = (
                    f"axis {axis} of {path!r} has {count}{heads}, {'·'.join(axis_names(entry))} of the mesh has {into}"
                )
                whole.append(why)
                if not self.rules.replicate:
                    self._fault(f"{why}, which does not divide it; change either, or say indivisible: replicate")
                entry = None
            kept.append(entry)
        return tuple(kept), tuple(whole)

    def _fault(self, text: str) -> None:
        self.faults[text] = None


def general_path(text: str) -> str:
    """Paths in a text with `*` for the number of a layer: what holds for one layer mostly holds for all."""
    return re.sub(r"(?<=/)\d+(?=/)", "*", text)


def spelled_mesh(mesh: Mesh) -> str:
    """A mesh as people write it: `data 2 × model 4`."""
    return " × ".join(f"{name} {extent}" for name, extent in mesh.items()) or "of one device"


def _once(entries: Iterable[AxisEntry]) -> Axes:
    """Entries in which each mesh axis occurs once, where it came first: no array can be split over it twice."""
    used: set[str] = set()
    made: list[AxisEntry] = []
    for entry in entries:
        fresh = tuple(name for name in axis_names(entry) if name not in used)
        used.update(fresh)
        made.append((fresh if len(fresh) > 1 else fresh[0]) if fresh else None)
    return tuple(made)


@functools.cache
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _matches(pattern: str, path: str) -> bool:
    return _pattern(pattern).fullmatch(path) is not None
