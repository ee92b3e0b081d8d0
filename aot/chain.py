"""Chain and Call: what a model hands to the builder and the index records.

An entry of a bundle is a chain of calls over named slots (`aot.slots`).

A program is lowered once however many calls name it: a decoder's block is one program, called for every layer
with that layer's weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from aot.errors import InputError
from aot.slots import GIVES, INPUT, OUTPUT, TAKES, WEIGHT, slot_of

Axes = tuple[str | None, ...]  # of one array: for each axis the precompile dimension it is, or None

GATHER = "gather"
"""The phase that gives what is gathered."""


@dataclass(frozen=True)
class Array:
    """Shape and dtype of an array, without its values."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Program:
    """A pure function of named arrays, ready to be lowered: two equal ones lower to the same bytes.

    `function(**arrays)` gives a dict of arrays. It must compare by value (a module-level function, or a frozen
    dataclass with `__call__`), so that what is lowered for one combo is found again for the next.
    """

    name: str
    function: Callable[..., Mapping[str, Any]]
    arguments: tuple[tuple[str, Array], ...]
    donated: frozenset[str] = frozenset()

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Worked out once: a plan looks its programs up a hundred thousand times."""
        return hash((self.name, self.function, self.arguments, self.donated))


@dataclass(frozen=True)
class Call:
    """One call of a program: the slot that each argument takes and that each result gives, as (name, slot)."""

    program: Program
    takes: tuple[tuple[str, str], ...]
    gives: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Repeat:
    """A run of the calls of a chain that is made in turns: while a slot holds, and at most so many times."""

    begin: int
    """The position of the first call of the run."""
    end: int
    """The position behind the last one."""
    slot: str
    """Holds a bool [] before the run, and after each turn, that says whether there is another turn."""
    most: int
    count: str
    """The output int32 [] that says how many turns there were."""
    stacked: tuple[str, ...] = ()
    """Outputs that each turn gives for itself: they stand side by side on an axis of `most` behind the first one.

    What was given before the run stands in the place of turns that there were not.
    """


@dataclass(frozen=True)
class Chain:
    """The calls of one phase, in order, and which axis of each input and output is which precompile dimension."""

    calls: tuple[Call, ...]
    inputs: Mapping[str, Axes]
    outputs: Mapping[str, Axes]
    repeat: Repeat | None = None


def like(array: Any) -> Array:
    """The Array of whatever has a shape and a dtype, as arrays of numpy and jax do."""
    return Array(tuple(array.shape), str(array.dtype))


def program(
    name: str,
    function: Callable[..., Mapping[str, Any]],
    arguments: Mapping[str, Array],
    donated: frozenset[str] | set[str] = frozenset(),
) -> Program:
    """A Program, its arguments sorted by name as `jax.export` flattens them."""
    if odd := sorted(set(donated) - set(arguments)):
        raise InputError(f"program {name}: donates {odd[0]!r}, which is no argument; it has {', '.join(arguments)}")
    return Program(name, function, tuple(sorted(arguments.items())), frozenset(donated))


def call(program: Program, takes: Mapping[str, str], gives: Mapping[str, str]) -> Call:
    """A Call. Raises InputError for an argument without a slot, a slot of no argument, and an unknown kind of slot."""
    if odd := sorted({name for name, _ in program.arguments} ^ set(takes)):
        raise InputError(f"program {program.name}: an argument without a slot, or a slot of no argument: {odd[0]!r}")
    for verb, slots, kinds in (("takes", takes, TAKES), ("gives", gives, GIVES)):
        if wrong := [name for name in slots.values() if slot_of(name).kind not in kinds or name[-1] == "/"]:
            raise InputError(f"program {program.name}: {verb} {wrong[0]!r}, which must be {'/… or '.join(kinds)}/…")
    return Call(program, tuple(sorted(takes.items())), tuple(sorted(gives.items())))


def single(
    name: str,
    function: Callable[..., Mapping[str, Any]],
    weights: Mapping[str, Array],
    inputs: Mapping[str, tuple[Array, Axes]],
    outputs: Mapping[str, Axes],
) -> Chain:
    """The Chain of one call: `function(weights, **inputs)`, with weights by path, gives a dict of the outputs.

    A module-level function or a method of the model will do: what it compares by is what makes programs equal.
    """
    arrays = WEIGHT.slots(weights) | INPUT.slots({key: array for key, (array, _) in inputs.items()})
    made = program(name, _Slotted(function), arrays)
    slots = [OUTPUT.slot(key) for key in outputs]
    calls = (call(made, {slot: slot for slot in arrays}, {slot: slot for slot in slots}),)
    return Chain(calls, {given: axes for given, (_, axes) in inputs.items()}, dict(outputs))


@dataclass(frozen=True)
class _Slotted:
    """A function of weights and inputs as one of slots."""

    function: Callable[..., Mapping[str, Any]]

    def __call__(self, **slots: Any) -> dict[str, Any]:
        return OUTPUT.slots(self.function(WEIGHT.paths(slots), **INPUT.paths(slots)))
