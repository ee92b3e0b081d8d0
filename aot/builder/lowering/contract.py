"""Checks that the calls of a chain fit together: what each takes is there, in the same shape, and not yet used up."""

from collections.abc import Iterator, Mapping
from typing import Any

from aot.bundle.index.records import ArgumentRecord, BindingRecord, ProgramRecord
from aot.chain import Array, Chain, Repeat
from aot.errors import InputError
from aot.slots import GATHERED, INPUT, OUTPUT, SOURCE, STATE, VALUE, WEIGHT, prefixes, slot_of

Calls = list[tuple[ProgramRecord, BindingRecord]]
_LENT = prefixes(WEIGHT, GATHERED, SOURCE)  # slots that are read by others and later, so never donated
_CARRIED, _GIVEN = prefixes(STATE, GATHERED), prefixes(VALUE, GATHERED)


def check_chain(
    phase: str, made: Chain, calls: Calls, known: Mapping[str, Array], dimensions: Mapping[str, Any]
) -> dict[str, Array]:
    """Follows the arrays from call to call, and gives those of the state and those gathered.

    `known` are the weights, and the state of the combo's other phases, by slot. Raises InputError for the first fault.
    """
    slots = dict(known)
    for fault in (*_calls(_unrolled(made, calls), slots), *_ends(made, slots, dimensions)):
        raise InputError(f"model: phase {phase!r}: {fault}")
    return {slot: array for slot, array in slots.items() if slot.startswith(_CARRIED)}


def _unrolled(made: Chain, calls: Calls) -> Calls:
    """The calls with two turns of those that are repeated: the second is given what the first one leaves."""
    if (repeat := made.repeat) is None:
        return calls
    return calls[: repeat.end] + calls[repeat.begin :]


def _calls(calls: Calls, slots: dict[str, Array]) -> Iterator[str]:
    """Runs the calls on the shapes alone: afterwards the slots hold what an entry would."""
    gone: dict[str, str] = {}
    for program, binding in calls:
        for slot, argument in zip(binding.takes, program.arguments, strict=True):
            if slot in gone:
                yield f"program {program.name}: takes {slot!r}, which program {gone[slot]} was given to reuse"
            yield from _taken(program, slot, argument, slots)
        gone |= {s: program.name for s, a in zip(binding.takes, program.arguments, strict=True) if a.donated}
        for slot, result in zip(binding.gives, program.results, strict=True):
            given = Array(result.shape, result.dtype)
            if STATE.holds(slot) and slots.get(slot, given) != given:
                yield f"program {program.name}: gives {_spelled(given)} for {slot!r}, which is {_spelled(slots[slot])}"
            slots[slot] = given
            gone.pop(slot, None)
    for slot, name in gone.items():
        if STATE.holds(slot):
            yield f"program {name}: reuses the memory of {slot!r}, which no call gives anew"


def _taken(program: ProgramRecord, slot: str, argument: ArgumentRecord, slots: dict[str, Array]) -> Iterator[str]:
    wanted = Array(argument.shape, argument.dtype)
    if WEIGHT.holds(slot) and slot not in slots:
        yield f"program {program.name}: takes {slot!r}, which is not among the model's weights"
    elif slot.startswith(_GIVEN) and slot not in slots:
        yield f"program {program.name}: takes {slot!r}, which no earlier call gives"
    elif slots.setdefault(slot, wanted) != wanted:
        found = f"{_spelled(wanted)}, {slot!r} is {_spelled(slots[slot])}"
        yield f"program {program.name}: argument {argument.name!r} is {found}"
    if argument.donated and slot.startswith(_LENT):
        yield f"program {program.name}: donates {slot!r}, which other calls read; only state, values and inputs can be"


def _ends(made: Chain, slots: Mapping[str, Array], dimensions: Mapping[str, Any]) -> Iterator[str]:
    for kind, declared in ((INPUT, made.inputs), (OUTPUT, made.outputs)):
        found = kind.paths(slots)
        if kind == OUTPUT and made.repeat is not None:
            found = _stacked(found, made.repeat)
        if odd := sorted(set(found) ^ set(declared)):
            what = "has no axes in the chain" if odd[0] in found else "is in no call"
            yield f"{kind} {odd[0]!r} {what}"
            continue
        for name, axes in declared.items():
            yield from _axes(f"{kind} {name!r}", axes, found[name], dimensions)


def _stacked(outputs: Mapping[str, Array], repeat: Repeat) -> dict[str, Array]:
    """Outputs as all turns of a repeat give them together."""
    shapes = {slot_of(slot).path: repeat.most for slot in repeat.stacked}
    made = {
        name: Array((*array.shape[:1], shapes[name], *array.shape[1:]), array.dtype) if name in shapes else array
        for name, array in outputs.items()
    }
    return made | {slot_of(repeat.count).path: Array((), "int32")}


def _axes(place: str, axes: tuple[str | None, ...], array: Array, dimensions: Mapping[str, Any]) -> Iterator[str]:
    if len(axes) != len(array.shape):
        yield f"{place}: has {len(array.shape)} axes, the chain names {len(axes)}"
        return
    for axis, size in zip(axes, array.shape, strict=True):
        if axis is not None and dimensions.get(axis) != size:
            yield f"{place}: has {size} on the axis {axis!r}, which is {dimensions.get(axis)!r} in this combo"


def _spelled(array: Array) -> str:
    return f"{array.dtype} {list(array.shape)}"
