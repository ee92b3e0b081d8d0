"""The accelerators of this machine, read off the system in milliseconds: no driver is started, jax is not imported."""

import ctypes
import functools
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from aot import devices

_NVML = "libnvidia-ml.so.1"
_LONGEST = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE, and more than a version has
_GOOGLE = "0x1ae0"  # vendor on the PCI bus


@dataclass(frozen=True)
class Accelerator:
    """One device: what it calls itself, and for a GPU its compute capability, where that can be known."""

    kind: str
    compute_capability: str | None = None


@dataclass(frozen=True)
class Accelerators:
    """All devices of a platform, and the version of their driver, where that can be known."""

    devices: tuple[Accelerator, ...]
    driver: str | None = None


_NAMES = {"cuda": {"cuda", "gpu"}, "tpu": {"tpu"}}
"""What JAX_PLATFORMS may call a platform."""
_BY_NAME = ("GPU-", "MIG-")  # how CUDA_VISIBLE_DEVICES names a GPU other than by its number


def accelerators_of(platform: str) -> Accelerators:
    """What this machine has for a platform, and jax may use; asked for once in a process."""
    allowed = os.environ.get("JAX_PLATFORMS", "")
    if allowed and not _NAMES[platform] & set(allowed.split(",")):
        return Accelerators(())
    return _gpus() if platform == "cuda" else _tpus()


@functools.cache
def _gpus() -> Accelerators:
    if not any(map(os.path.exists, ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg"))):
        return Accelerators(())
    with suppress(OSError, AttributeError):
        return read_nvml(ctypes.CDLL(_NVML))
    return read_proc(Path("/proc/driver/nvidia"))


@functools.cache
def _tpus() -> Accelerators:
    return read_pci(Path("/sys/bus/pci/devices"))


def read_nvml(library: ctypes.CDLL) -> Accelerators:
    """GPUs as NVIDIA's management library tells them. Raises OSError where it does not answer."""
    _ask(library.nvmlInit_v2)
    try:
        count, driver = ctypes.c_uint(), ctypes.create_string_buffer(_LONGEST)
        _ask(library.nvmlDeviceGetCount_v2, ctypes.byref(count))
        _ask(library.nvmlSystemGetDriverVersion, driver, _LONGEST)
        found = tuple(_gpu(library, place) for place in _visible(count.value))
    finally:
        library.nvmlShutdown()
    return Accelerators(found, driver.value.decode())


def _visible(count: int) -> Iterator[int]:
    """The positions of the GPUs that CUDA shows to this process; those with names are only counted."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if named is None else filter(None, map(str.strip, named.split(",")))
    for place, name in enumerate(names):
        number = int(name) if name.isdecimal() else place if name.startswith(_BY_NAME) else count
        if number >= count:  # CUDA stops at the first that is not there, as -1 never is
            return
        yield number


def _gpu(library: ctypes.CDLL, place: int) -> Accelerator:
    handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(_LONGEST)
    major, minor = ctypes.c_int(), ctypes.c_int()
    _ask(library.nvmlDeviceGetHandleByIndex_v2, ctypes.c_uint(place), ctypes.byref(handle))
    _ask(library.nvmlDeviceGetName, handle, name, _LONGEST)
    _ask(library.nvmlDeviceGetCudaComputeCapability, handle, ctypes.byref(major), ctypes.byref(minor))
    return Accelerator(name.value.decode(), f"{major.value}.{minor.value}")


def _ask(function: "ctypes._NamedFuncPointer", *arguments: object) -> None:
    if status := function(*arguments):
        raise OSError(f"{function.__name__}: {status}")


def read_proc(root: Path) -> Accelerators:
    """GPUs as the kernel's driver tells them, without compute capabilities."""
    texts = [path.read_text() for path in sorted(root.glob("gpus/*/information"))]
    rows = (line.partition(":") for text in texts for line in text.splitlines())
    kinds = tuple(Accelerator(value.strip()) for name, _, value in rows if name == "Model")
    try:
        words = (root / "version").read_text().split("\n")[0].split()
    except OSError:
        words = []
    return Accelerators(kinds, next((word for word in words if word[0].isdigit() and "." in word), None))


def read_pci(root: Path) -> Accelerators:
    """The TPU chips on the bus."""
    known = {tpu.pci: tpu.kind for tpu in map(devices.find_tpu, devices.tpu_versions())}
    found = []
    for vendor in sorted(root.glob("*/vendor")):
        with suppress(OSError):
            if vendor.read_text().strip() == _GOOGLE:
                found.append(vendor.with_name("device").read_text().strip())
    return Accelerators(tuple(Accelerator(known[device]) for device in found if device in known))
