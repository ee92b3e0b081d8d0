"""Chain and Call: what a model hands to the builder and the index records.

An entry of a bundle is a chain of calls over named *slots*. A slot's first part says where its array comes from:

    weight/<path>   a weight, placed once when the bundle is loaded
    input/<name>    what the caller of the phase passes
    state/<path>    what the phases of one generation carry from call to call; zeros at the start
    source/<path>   the state of another generation, read and left as it is
    value/<name>    what one call of a chain hands to a later one
    output/<name>   what the caller gets back

A program is lowered once however many calls name it: a decoder's block is one program, called for every layer
with that layer's weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Axes = tuple[str | None, ...]  # of one array: for each axis the precompile dimension it is, or None

SLOTS = ("weight", "input", "state", "source", "value", "output")


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


@dataclass(frozen=True)
class Call:
    """One call of a program: the slot that each argument takes and that each result gives, as (name, slot)."""

    program: Program
    takes: tuple[tuple[str, str], ...]
    gives: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Chain:
    """The calls of one phase, in order, and which axis of each input and output is which precompile dimension."""

    calls: tuple[Call, ...]
    inputs: Mapping[str, Axes]
    outputs: Mapping[str, Axes]


def program(
    name: str,
    function: Callable[..., Mapping[str, Any]],
    arguments: Mapping[str, Array],
    donated: frozenset[str] | set[str] = frozenset(),
) -> Program:
    """A Program, its arguments sorted by name as `jax.export` flattens them."""
    return Program(name, function, tuple(sorted(arguments.items())), frozenset(donated))


def call(program: Program, takes: Mapping[str, str], gives: Mapping[str, str]) -> Call:
    """A Call; an argument without a slot, a slot of no argument and an unknown kind of slot are errors."""
    if missing := {name for name, _ in program.arguments} ^ set(takes):
        raise ValueError(f"program {program.name}: arguments and slots do not pair up: {sorted(missing)}")
    if wrong := [slot for slot in (*takes.values(), *gives.values()) if slot.split("/", 1)[0] not in SLOTS]:
        raise ValueError(f"program {program.name}: slot {wrong[0]!r} must begin with one of {', '.join(SLOTS)}")
    return Call(program, tuple(sorted(takes.items())), tuple(sorted(gives.items())))
