"""What a program of a mesh takes and gives, held against its executable and against what it is called with.

XLA ends the process over a difference, where it is not of the same size and silently taken for what it is not.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from aot import wire
from aot.bundle.index.bounds import Axes
from aot.bundle.index.records import ArgumentRecord, ProgramRecord
from aot.bundle.store import Bundle
from aot.errors import BundleError
from aot.runtime.device.client import Buffer, numpy_dtype
from aot.runtime.fitting import entries
from aot.runtime.place import Place

_OPTIONS, _BUILD, _REPLICAS, _PARTITIONS = 2, 3, 4, 5
"""Fields of `ExecutableAndOptionsProto`, `CompileOptionsProto` and `ExecutableBuildOptionsProto`."""
_ADVICE = "fetch it again or rebuild"
_LAYOUT = "entry_computation_layout={"
_SHAPE = re.compile(r"([a-z][a-z0-9]*)\[([0-9,]*)\]")
_NAMES = {"bool": "pred", "bfloat16": "bf16", "float16": "f16", "float32": "f32", "float64": "f64"}

LayAxes = Callable[[Axes], Any]
"""The sharding that axes stand for."""


def check_devices(bundle: Bundle, place: Place) -> None:
    """Raises BundleError where an executable for the place is for another number of devices than its mesh has."""
    for program in bundle.index.programs:
        if (program.platform, program.mesh) == place and (
            executable := entries.fitting_executable(program)
        ) is not None:
            data = bundle.read(executable.digest, executable.bytes)
            check_partitions(data, program, math.prod(size for _, size in place.mesh))
            break  # all others are looked at when they are loaded


def check_partitions(data: bytes, program: ProgramRecord, devices: int) -> None:
    """Raises BundleError where an executable, by its stored bytes, is for another number of devices."""
    try:
        options = wire.only(wire.only(wire.framed(data)[1], _OPTIONS), _BUILD)
        found = wire.number(options, _REPLICAS) * wire.number(options, _PARTITIONS)
    except ValueError:
        return  # a compiler that does not say so
    if found != devices:
        raise BundleError(
            f"program {program.name}: its executable is for {found} devices, the index says {devices}; {_ADVICE}"
        )


def check_executable(header: str, program: ProgramRecord, lay: LayAxes) -> None:
    """Raises BundleError where an executable, by the first line of its HLO, takes or gives other parts of arrays."""
    if (found := _signature(header)) is None:
        return  # a compiler that does not say so
    for kind, arrays, shapes in zip(("takes", "gives"), (program.arguments, program.results), found, strict=True):
        wanted = [_part(array, lay) for array in arrays]
        if wanted != shapes:
            at = next((i for i, (a, b) in enumerate(zip(wanted, shapes, strict=False)) if a != b), len(wanted))
            said = [shapes[at : at + 1], wanted[at : at + 1]]
            here, there = (f"{each[0][0]}{list(each[0][1])}" if each else "nothing" for each in said)
            raise BundleError(
                f"program {program.name}: its executable {kind} {here} at {at}, the index says {there}; {_ADVICE}"
            )


def argument_check(program: ProgramRecord, lay: LayAxes) -> Callable[[Sequence[Buffer]], None]:
    """What raises BundleError for arguments that the program does not take."""
    wanted = [(array.shape, numpy_dtype(array.dtype), lay(array.sharding)) for array in program.arguments]
    donated = [place for place, array in enumerate(program.arguments) if array.donated]

    def check(arguments: Sequence[Buffer]) -> None:
        if len(arguments) != len(wanted):
            raise BundleError(f"program {program.name}: takes {len(wanted)} arrays, got {len(arguments)}; {_ADVICE}")
        for (shape, kind, sharding), given, array in zip(wanted, arguments, program.arguments, strict=True):
            if given.is_deleted():
                raise BundleError(f"program {program.name}: {array.name} was used up by an earlier call; {_ADVICE}")
            if given.shape != shape or given.dtype != kind or not _same(given.sharding, sharding, len(shape)):
                raise BundleError(
                    f"program {program.name}: takes {array.name} as {kind} {list(shape)} {sharding.spec}, got "
                    f"{given.dtype} {list(given.shape)} {getattr(given.sharding, 'spec', given.sharding)}; {_ADVICE}"
                )
        for place in donated:
            if sum(given is arguments[place] for given in arguments) > 1:
                name = program.arguments[place].name
                raise BundleError(f"program {program.name}: {name} is used up by it and given twice; {_ADVICE}")

    return check


def _same(found: Any, wanted: Any, rank: int) -> bool:
    return found is wanted or bool(found.is_equivalent_to(wanted, rank))


def _part(array: ArgumentRecord, lay: LayAxes) -> tuple[str, tuple[int, ...]]:
    name = _NAMES[array.dtype] if array.dtype in _NAMES else array.dtype.replace("int", "s").replace("us", "u")
    return name, tuple(lay(array.sharding).shard_shape(array.shape))


def _signature(header: str) -> tuple[list[tuple[str, tuple[int, ...]]], list[tuple[str, tuple[int, ...]]]] | None:
    """Types and shapes of what the entry takes and gives."""
    _, found, rest = header.partition(_LAYOUT)
    takes, arrow, gives = rest.partition(")->")
    if not (found and arrow):
        return None
    end, depth = 0, 1  # of the brace that the layout begins with
    while depth and end < len(gives):
        depth += (gives[end] == "{") - (gives[end] == "}")
        end += 1
    return _shapes(takes), _shapes(gives[:end])


def _shapes(text: str) -> list[tuple[str, tuple[int, ...]]]:
    return [(kind, tuple(map(int, filter(None, sides.split(","))))) for kind, sides in _SHAPE.findall(text)]
