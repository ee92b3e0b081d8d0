"""What decides the bytes of a thing before it is made: the named factors by which the build cache keeps it.

A factor too many costs a build some time, one too few gives wrong bytes. So our own sources are among them as they lie
there, and packages by what their wheels say of themselves. A package that is edited in place after it was installed
goes unnoticed.
"""

import functools
import math
import platform
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import FunctionType
from typing import Any

from aot import extras, isa
from aot.builder import installed, settings
from aot.builder.compiling import compile
from aot.builder.lowering.layouts import Placed
from aot.builder.reuse.cache import Factors
from aot.targets import Target

_PACKAGES = ("capstone", "flatbuffers", "flax", "jax", "jaxlib", "ml_dtypes", "numpy", "pyelftools")
COMPILING = ("", "builder", "bundle", "runtime/device/exports.py")
"""Parts of our package, by their paths in it, that decide what an executable is; all of it decides the rest."""


class Unknown(Exception):
    """A function holds something by which it cannot be told from others."""


def executable(program: str, target: Target) -> Factors:
    """The compile key, spelled out: of the program with this digest, compiled for a target."""
    made = {"program": program, "target": target.plain(), "flags": compile.flags(target)}
    compilers = [installed.wheel(name) for name in extras.compiler_wheels(target.platform)]
    return {"kind": "executable", **made, "compilers": compilers, **_tools(COMPILING)}


def program(placed: Placed, waivers: tuple[str, ...]) -> Factors | None:
    """The factors of a program for a platform and mesh; None for one whose function is not known to the last bit.

    Only functions of our own families are: what else a user's function reads, nobody can tell.
    """
    made = placed.program
    try:
        contract = {name: spelled_factor(getattr(made, name)) for name in ("name", "function", "arguments")}
    except Unknown:
        return None
    contract["donated"] = sorted(made.donated)
    where = {name: spelled_factor(getattr(placed, name)) for name in ("platform", "mesh", "arguments", "results")}
    options = {"waivers": waivers, "settings": settings.LOWERING}
    return {"kind": "program", **contract, "placed": where, **options, **_tools()}


def golden(entry: Mapping[str, Any]) -> Factors:
    """The factors of the golden outputs of an entry that is made of this, run on a processor like this one."""
    return {"kind": "golden", **entry, **_here(), **_tools()}


def loss(model: Mapping[str, Any]) -> Factors:
    """The factors of what quantization costs a model with these weights, measured on a processor like this one."""
    return {"kind": "loss", **model, **_here(), **_tools()}


def spelled_factor(value: Any) -> Any:
    """A value as JSON has it, if all of it are plain values, tuples, dataclasses and functions of ours.

    Raises Unknown for others: they may hold what does not show.
    """
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return value
    if type(value) is tuple:
        return [spelled_factor(item) for item in value]
    if isinstance(value, FunctionType):
        return {"function": _named(value)}
    kind = type(value)
    if not is_dataclass(kind) or not _is_ours(kind.__module__) or "<" in kind.__qualname__:
        raise Unknown(repr(kind))
    content = {field.name: spelled_factor(getattr(value, field.name)) for field in fields(value)}
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "fields": content}


def _named(function: FunctionType) -> str:
    """The place of a function in a module of ours, where it can be found again."""
    module, name = function.__module__, function.__name__
    if not _is_ours(module) or getattr(sys.modules.get(module), name, None) is not function:
        raise Unknown(repr(function))
    return f"{module}.{name}"


def _is_ours(module: str) -> bool:
    return module.startswith("aot.")


@functools.cache
def _tools(parts: tuple[str, ...] = (".",)) -> dict[str, Any]:
    """What makes things here: Python, the wheels, and our own sources, all of them or those of some parts."""
    wheels = {name: installed.wheel(name) for name in _PACKAGES}
    sources = installed.dir_hash(installed.own(parts))
    return {"python": platform.python_version(), "machine": platform.machine(), "wheels": wheels, "sources": sources}


def _here() -> dict[str, Any]:
    """The processor, by which kernels are picked when they run."""
    return {"cpu": isa.processor_name(), "features": sorted(isa.this_machine().features)}
