"""`gather_params_once`: the chains of a combo, with the weights that the mesh splits taken as gathered ones.

One more phase gathers them, once a generation, in one call; what all other phases take then, every device has whole.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aot import chain
from aot.chain import Array, Call, Chain
from aot.slots import GATHERED, WEIGHT, slot_of


def gathered(chains: Mapping[str, Chain], split: set[str]) -> dict[str, Chain]:
    """The chains with the weights of some slots gathered before; as they are where they take none of these."""
    arrays: dict[str, Array] = {}
    made = {}
    for phase, each in chains.items():
        for call in each.calls:
            slots = dict(call.takes)
            arrays |= {slots[name]: array for name, array in call.program.arguments if slots[name] in split}
        made[phase] = replace(each, calls=tuple(_renamed(call, split) for call in each.calls))
    if not arrays:
        return made
    program = chain.program(chain.GATHER, whole, WEIGHT.paths(arrays))
    paths = [path for path, _ in program.arguments]
    takes, gives = ({path: kind.slot(path) for path in paths} for kind in (WEIGHT, GATHERED))
    call = chain.call(program, takes, gives)
    return {chain.GATHER: Chain((call,), {}, {}), **made}


def whole(**weights: Any) -> dict[str, Any]:
    """The weights: where they lie before and after is what this program is for."""
    return weights


def _renamed(call: Call, split: set[str]) -> Call:
    takes = ((name, GATHERED.slot(slot_of(slot).path) if slot in split else slot) for name, slot in call.takes)
    return replace(call, takes=tuple(takes))
