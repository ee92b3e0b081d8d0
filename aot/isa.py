"""The instruction sets that cpu targets may declare, what each promises, and what the machine at hand has."""

import functools
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aot.errors import InputError

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Baseline:
    """What code built for an ISA may use, and no more; `isa.json` names the source."""

    name: str
    machine: str
    llvm: tuple[str, ...]
    """Features by LLVM's names, sorted."""
    kernel: tuple[str, ...]
    """The features by the names of /proc/cpuinfo, sorted."""
    xla_max_isa: str
    level: str
    """The psABI micro-architecture level, which LLVM knows as a CPU: x86-64-v3."""
    preferences: tuple[str, ...]
    """What the compiler is to prefer on it, in LLVM's names: no features, and nothing that a machine has or lacks."""


@dataclass(frozen=True)
class Machine:
    """A machine's architecture and the features that its kernel or its CPU reports: none where neither does."""

    machine: str
    features: frozenset[str]


def isa_names() -> tuple[str, ...]:
    """The ISAs that a manifest may name."""
    return tuple(_baselines())


def find_baseline(name: str) -> Baseline:
    """The baseline of an ISA. Raises InputError for a name without one."""
    found = _baselines().get(name)
    if found is None:
        raise InputError(f"targets: unknown isa {name!r}, allowed are {', '.join(isa_names())}; declare one of these")
    return found


@functools.cache
def this_machine() -> Machine:
    """What this process runs on, read once."""
    try:
        found = cpu_flags(_CPUINFO.read_text(encoding="utf-8", errors="replace"))
    except OSError:  # hidden in some containers and services
        found = frozenset()
    return Machine(platform.machine(), found or _asked())


def _asked() -> frozenset[str]:
    from aot import cpuid

    return cpuid.cpuid_features()


def cpuinfo_is_hidden() -> bool:
    """Whether the system keeps from this process what it knows of the CPU; XLA's kernels look there too."""
    return not _CPUINFO.exists()


def processor_name() -> str:
    """The name of the processor, by which kernels are picked beside its features."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """The flags that every processor of a /proc/cpuinfo has: a program may run on any of them."""
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    each = [frozenset(value.split()) for name, _, value in lines if name.strip() in ("flags", "Features")]
    return frozenset.intersection(*each) if each else frozenset()


def missing_features(requires: Mapping[str, Any], machine: Machine) -> tuple[str, ...]:
    """What `machine` lacks of {"machine": "x86_64", "features": […]}: the architecture alone, or features, sorted."""
    if requires["machine"] != machine.machine:
        return (str(requires["machine"]),)
    return tuple(sorted(set(requires["features"]) - machine.features))


@functools.cache
def _baselines() -> dict[str, Baseline]:
    table = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))["baselines"]
    return {name: _baseline(name, entry) for name, entry in table.items()}


def _baseline(name: str, entry: dict[str, Any]) -> Baseline:
    lists = {field: tuple(entry[field]) for field in ("llvm", "kernel", "preferences")}
    return Baseline(name=name, **(entry | lists))
