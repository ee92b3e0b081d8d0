"""What this machine has of accelerators, read off files and NVIDIA's library as they are on machines that have some."""

import ctypes
from pathlib import Path
from typing import Any

import pytest

from aot.runtime.fitting import machine
from aot.runtime.fitting.machine import Accelerator, Accelerators


class Function:
    """A function of a library that is called with ctypes' arguments."""

    def __init__(self, name: str, call: Any) -> None:
        self.__name__, self._call = name, call

    def __call__(self, *arguments: Any) -> int:
        return self._call(*arguments) or 0


def library(*kinds: str, capability: tuple[int, int] = (9, 0), status: int = 0) -> Any:
    """NVIDIA's management library on a machine with GPUs of these kinds."""

    def handle(place: Any, found: Any) -> None:
        found._obj.value = place.value + 1

    def name(place: Any, buffer: Any, size: int) -> None:
        buffer.value = kinds[place.value - 1].encode()

    def compute_capability(place: Any, major: Any, minor: Any) -> None:
        major._obj.value, minor._obj.value = capability

    calls = {
        "nvmlInit_v2": lambda: status,
        "nvmlShutdown": lambda: 0,
        "nvmlDeviceGetCount_v2": lambda count: setattr(count._obj, "value", len(kinds)),
        "nvmlSystemGetDriverVersion": lambda buffer, size: setattr(buffer, "value", b"580.95.05"),
        "nvmlDeviceGetHandleByIndex_v2": handle,
        "nvmlDeviceGetName": name,
        "nvmlDeviceGetCudaComputeCapability": compute_capability,
    }
    return type("Library", (), {key: staticmethod(Function(key, call)) for key, call in calls.items()})


H200 = Accelerator("NVIDIA H200", "9.0")


def test_gpus_are_told_by_nvidias_library() -> None:
    found = machine.read_nvml(library("NVIDIA H200", "NVIDIA H200"))

    assert found == Accelerators((H200, H200), "580.95.05")


@pytest.mark.parametrize(
    ("named", "shown"),
    [("1", 1), ("0,1", 2), ("", 0), ("5,0", 0), ("0,5,1", 1), ("GPU-1f2e", 1), ("-1", 0), ("0,-1,1", 1), ("none", 0)],
)
def test_only_gpus_that_cuda_shows_to_the_process_count(monkeypatch: Any, named: str, shown: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)

    assert len(machine.read_nvml(library("NVIDIA H200", "NVIDIA H200")).devices) == shown


def test_a_library_that_does_not_answer_is_an_os_error() -> None:
    with pytest.raises(OSError, match="nvmlInit_v2: 9"):
        machine.read_nvml(library("NVIDIA H200", status=9))


def test_without_the_library_the_kernels_driver_tells_kind_and_version(tmp_path: Path) -> None:
    for bus in ("0000:18:00.0", "0000:2a:00.0"):
        (tmp_path / "gpus" / bus).mkdir(parents=True)
        (tmp_path / "gpus" / bus / "information").write_text("Model: \t\t NVIDIA L4\nIRQ:   \t\t 17\n")
    version = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC version: 12.3.0\n"
    (tmp_path / "version").write_text(version)

    assert machine.read_proc(tmp_path) == Accelerators((Accelerator("NVIDIA L4"),) * 2, "580.95.05")


def test_tpu_chips_are_told_by_their_pci_ids(tmp_path: Path) -> None:
    for place, (vendor, device) in enumerate([("0x1ae0", "0x0063"), ("0x8086", "0x0063"), ("0x1ae0", "0x001f")]):
        (tmp_path / str(place)).mkdir()
        (tmp_path / str(place) / "vendor").write_text(f"{vendor}\n")
        (tmp_path / str(place) / "device").write_text(f"{device}\n")

    assert machine.read_pci(tmp_path) == Accelerators((Accelerator("TPU v5 lite"),))


def test_pci_ids_are_those_of_jax() -> None:
    from jax._src import hardware_utils

    from aot import devices

    theirs = {version.name: device for device, version in hardware_utils._TPU_PCI_DEVICE_IDS.items()}

    assert {name: devices.find_tpu(name).pci for name in devices.tpu_versions()}.items() <= theirs.items()


@pytest.mark.parametrize(("named", "shown"), [("", 1), ("cpu", 0), ("cuda", 1), ("tpu,cpu", 0), ("cpu,gpu", 1)])
def test_what_jax_is_told_to_leave_alone_is_not_there(monkeypatch: Any, named: str, shown: int) -> None:
    monkeypatch.setattr(machine, "_gpus", lambda: Accelerators((H200,)))
    monkeypatch.setenv("JAX_PLATFORMS", named)

    assert len(machine.accelerators_of("cuda").devices) == shown


def test_a_machine_without_drivers_has_nothing_and_loads_no_library(monkeypatch: Any) -> None:
    machine._gpus.cache_clear()
    monkeypatch.setattr(machine.os.path, "exists", lambda path: False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail(f"loaded {name}"))
    found = machine.accelerators_of("cuda")
    machine._gpus.cache_clear()

    assert found == Accelerators(())
