"""The accelerators that targets may name, and what compiler and loader have to know of each: `devices.json`."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aot.errors import InputError
from aot.targets import CudaTarget, Target, TpuTarget

DeviceNumber = int | float


@dataclass(frozen=True)
class Gpu:
    """One kind of NVIDIA GPU."""

    name: str
    kinds: tuple[str, ...]
    """What such GPUs call themselves."""
    compute_capability: str
    accelerated: bool
    """Whether code uses what this compute capability has and no later one: sm_90a."""
    driver: str
    """The oldest driver that runs code of our compiler."""
    figures: Mapping[str, DeviceNumber]
    """Fields of XLA's GpuDeviceInfoProto."""


@dataclass(frozen=True)
class TpuVersion:
    """One version of TPU. A chip is one device."""

    name: str
    kind: str
    """What its devices call themselves."""
    pci: str
    """Device id of a chip on the PCI bus."""
    dimensions: int
    """Dimensions of the kind's topologies."""
    memory: int
    """Bytes of a chip."""


def gpu_names() -> tuple[str, ...]:
    """The devices that cuda targets may name."""
    return tuple(_table()["gpus"])


def tpu_versions() -> tuple[str, ...]:
    """The versions that topologies of tpu targets may name."""
    return tuple(_table()["tpus"])


def find_gpu(name: str) -> Gpu:
    """The GPU of a name. Raises InputError for a name without one."""
    table = _table()
    if name not in table["gpus"]:
        raise InputError(f"unknown device {name!r}; {_choice(name, gpu_names())}")
    found = table["gpus"][name]
    architecture = table["architectures"][found["architecture"]]
    return Gpu(
        name=name,
        kinds=tuple(found["kinds"]),
        compute_capability=architecture["compute_capability"],
        accelerated=architecture["accelerated"],
        driver=table["driver"],
        figures={**table["every"], **architecture["figures"], **found["figures"]},
    )


def find_tpu(name: str) -> TpuVersion:
    """The TPU of a version. Raises InputError for an unknown one."""
    if name not in tpu_versions():
        raise InputError(f"unknown version {name!r}; {_choice(name, tpu_versions())}")
    return TpuVersion(name, **_table()["tpus"][name])


def parse_topology(text: str) -> tuple[TpuVersion, tuple[int, ...]]:
    """The TPU and the shape of `v5e:2x2`. Raises InputError for another text."""
    version, _, sizes = text.partition(":")
    parts = sizes.split("x")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"must be a version and a shape as 'v5e:2x2', got {text!r}")
    found = find_tpu(version)
    if len(parts) != found.dimensions:
        raise InputError(f"a topology of {version} has {found.dimensions} dimensions, got {text!r}")
    return found, tuple(map(int, parts))


def device_memory(target: Target) -> int | None:
    """Bytes of memory that one device of a target has; None for a CPU, of which a target does not say."""
    if isinstance(target, CudaTarget):
        return int(find_gpu(target.device).figures["device_memory_size"])
    return parse_topology(target.topology)[0].memory if isinstance(target, TpuTarget) else None


def _choice(name: str, allowed: tuple[str, ...]) -> str:
    from aot import closest  # which serving does not need

    return closest.closest_hint(name, allowed, "allowed are")


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
