"""What holds in the contract of a program: its arrays, their shardings, and what its executables are for."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from aot import dtypes
from aot.bundle.index.bounds import Axes, Mesh
from aot.bundle.index.records import (
    ArgumentRecord,
    ExecutableRecord,
    Index,
    ProgramRecord,
)

_BYTES = 1 << 46  # what a process can address, halved
_DEVICES = 1 << 12

_TARGETS: dict[str, dict[str, type]] = {
    "cpu": {"isa": str, "threads": int},
    "cuda": {"device": str},
    "tpu": {"topology": str},
}
_REQUIRES: dict[str, dict[str, type]] = {
    "cpu": {"machine": str, "features": tuple},
    "cuda": {"kinds": tuple, "devices": int, "compute_capability": str},
    "tpu": {"kinds": tuple, "devices": int},
}

_MEMORY = {"arguments", "outputs", "aliased", "temporaries", "code"}

Layout = tuple[str, tuple[int, ...], Axes]
"""Dtype, shape and sharding of an array."""


def array_fault(dtype: str, shape: tuple[int, ...]) -> str:
    """What is wrong with the size of an array, by the way to it; empty where nothing is."""
    if dtype not in dtypes.SIZES:
        return f".dtype: must be one of {', '.join(dtypes.SIZES)}, got {dtype!r}"
    if (size := math.prod(shape) * dtypes.SIZES[dtype]) > _BYTES:
        return f".shape: {list(shape)} of {dtype} has {size} bytes, at most {_BYTES} are allowed"
    return ""


def program_faults(index: Index) -> Iterator[str]:
    """What does not hold in programs, each with its path."""
    sound: dict[Mesh, set[int]] = {}
    for i, program in enumerate(index.programs):
        place = f"programs[{i}]"
        if program.mesh not in sound:
            yield from _mesh(place, program.mesh)
        seen = sound.setdefault(program.mesh, set())
        for kind, arrays in (("arguments", program.arguments), ("results", program.results)):
            if len({record.name for record in arrays}) < len(arrays):
                yield f"{place}.{kind}: a name occurs twice"
            for record in [record for record in arrays if id(record) not in seen]:
                yield from _argument(f"{place}.{kind}[{arrays.index(record)}]", record, program.mesh)
                seen.add(id(record))
        for j, executable in enumerate(program.executables):
            yield from _executable(f"{place}.executables[{j}]", executable, program)


def _mesh(place: str, mesh: Mesh) -> Iterator[str]:
    if len(dict(mesh)) < len(mesh):
        yield f"{place}.mesh: an axis occurs twice"
    if (devices := math.prod(size for _, size in mesh)) > _DEVICES:
        yield f"{place}.mesh: {devices} devices, at most {_DEVICES} are allowed"


def _argument(place: str, record: ArgumentRecord, mesh: Mesh) -> Iterator[str]:
    if fault := array_fault(record.dtype, record.shape):
        yield f"{place}{fault}"
    if len(record.sharding) != len(record.shape):
        yield f"{place}.sharding: has {len(record.sharding)} axes, the shape {len(record.shape)}"
        return
    sizes, used = dict(mesh), list[str]()
    for side, axes in zip(record.shape, record.sharding, strict=True):
        over = () if axes is None else (axes,) if isinstance(axes, str) else axes
        used.extend(over)
        if unknown := [axis for axis in over if axis not in sizes]:
            yield f"{place}.sharding: {unknown[0]!r} is no axis of the mesh {sizes}"
        elif side % math.prod(sizes[axis] for axis in over):
            yield f"{place}.sharding: {side} does not divide over {', '.join(over)} of the mesh {sizes}"
    if len(set(used)) < len(used):
        yield f"{place}.sharding: splits over an axis twice"


def _is_of(given: Any, wanted: type) -> bool:
    if wanted is tuple:
        return isinstance(given, tuple) and all(type(each) is str for each in given)
    return type(given) is wanted


def _executable(place: str, record: ExecutableRecord, program: ProgramRecord) -> Iterator[str]:
    if list(record.target) != [program.platform] or program.platform not in _TARGETS:
        yield f"{place}.target: must be one for {program.platform!r}, got {dict(record.target)!r}"
        return
    kind, options = program.platform, record.target[program.platform]
    if not isinstance(options, Mapping) or not _TARGETS[kind].keys() <= options.keys():
        yield f"{place}.target: must have {', '.join(sorted(_TARGETS[kind]))}, got {dict(record.target)!r}"
        return
    for name, wanted in _TARGETS[kind].items():
        if type(options[name]) is not wanted:
            yield f"{place}.target.{name}: must be of type {wanted.__name__}, got {options[name]!r:.80}"
    if record.memory.keys() != _MEMORY:
        yield f"{place}.memory: must have {', '.join(sorted(_MEMORY))}, got {', '.join(record.memory)}"
    for name, wanted in _REQUIRES[kind].items():
        given = record.requires.get(name)
        if not _is_of(given, wanted):
            what = "a list of texts" if wanted is tuple else f"of type {wanted.__name__}"
            yield f"{place}.requires.{name}: must be there, {what}, got {given!r:.80}"
