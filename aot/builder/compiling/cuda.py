"""Compiling for NVIDIA GPUs, on a machine that has none: for the device that a description of it stands for."""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aot import devices as accelerators
from aot import extras, xla_flags
from aot.builder.compiling import deviceless
from aot.builder.compiling.deviceless import Made
from aot.devices import Gpu
from aot.errors import InputError, MachineError
from aot.targets import CudaTarget

Value = xla_flags.FlagValue | str

REPLAYED = "./tuning.textproto"
"""Where XLA looks for choices, from the directory of the process: the name is stored in executables."""

_CHOSEN = "./chosen.textproto"
"""Where XLA writes what it chose, and finds again what it chose for the programs before."""
_FLAGS: Mapping[str, Value] = {
    # Where there is no GPU nothing can be tried out: the cost model decides, and the same on every machine.
    "xla_gpu_autotune_level": 0,
    # Otherwise the kernels are divided among as many compilers as the machine has cores.
    "xla_gpu_force_compilation_parallelism": 1,
}
_TUNED: Mapping[str, Value] = {
    **_FLAGS,
    "xla_gpu_autotune_level": 4,  # the level that chose: it decides for what a choice is needed
    "xla_gpu_cudnn_gemm_fusion_level": 0,  # cuDNN compiles its fusions on the device only
}
_REPLAYING: Mapping[str, Value] = {
    **_TUNED,
    "xla_gpu_load_autotune_results_from": REPLAYED,
    "xla_gpu_require_complete_aot_autotune_results": True,  # else it would fall back on the cost model in silence
}
_REFILED = (0, 12)
"""The first jaxlib that files choices by the device's whole description and the version of its own code."""
_TOOLKIT = "nvidia.cu13"
_CUDNN = (9, 10)  # of XLA's own descriptions; 9.8 is the oldest that this jaxlib takes


def check(target: CudaTarget) -> None:
    """Raises InputError where the compiler is not installed, MachineError for a tuning that it would not replay."""
    if lacking := extras.missing_extra("cuda"):
        raise InputError(f"target cuda {target.device}: {lacking}, or leave the target out")
    if target.tuning is not None and not replays():
        raise MachineError(
            f"target cuda {target.device}: from jaxlib 0.12 on a tuning is not replayed; build with jaxlib 0.10.2 "
            "(Python 3.11), or leave `tuning` out"
        )


def replays() -> bool:
    """Whether the installed jaxlib finds choices as we file them."""
    import jaxlib.version

    return bool(jaxlib.version.__version_info__ < _REFILED)


def environment(target: CudaTarget) -> dict[str, str]:
    """Nothing beyond what every worker has."""
    return {}


def flags(target: CudaTarget) -> tuple[str, ...]:
    """The flags of XLA that we set."""
    return tuple(f"--{name}={str(v).lower() if v is True else v}" for name, v in _set(target).items())


def devices(target: CudaTarget, number: int) -> list[Any]:
    """As many GPUs of a target's kind as it takes, in one machine, of which there is only the description."""
    _link_toolkit()
    described = target_config(accelerators.find_gpu(target.device))
    return deviceless.devices("cuda", "described", topology=f"1x1x{number}", target_config=described)


def compiled(lowered: Any, target: CudaTarget) -> Made:
    """What XLA made; its bytes are the same on every machine as they are."""
    return deviceless.compiled(lowered, {**_set(target), **_given(target)})


def present(target: CudaTarget, number: int) -> list[Any]:
    """GPUs of a target's kind that this machine has, as many as are asked for."""
    import jax

    kinds = accelerators.find_gpu(target.device).kinds
    return [device for device in jax.devices("cuda") if device.device_kind in kinds][:number]


def tried_choices(lowered: Any, target: CudaTarget) -> str:
    """What XLA chooses by trying it out on the devices that it compiles for, with all that it chose here before."""
    known = {"xla_gpu_load_autotune_results_from": _CHOSEN} if Path(_CHOSEN).exists() else {}
    lowered.compile({**_TUNED, **known, "xla_gpu_dump_autotune_results_to": _CHOSEN, **_given(target)})
    return Path(_CHOSEN).read_text(encoding="utf-8")


def requires(target: CudaTarget, number: int) -> dict[str, Any]:
    """The GPUs, and the driver that takes their code."""
    gpu = accelerators.find_gpu(target.device)
    found = {"compute_capability": gpu.compute_capability, "driver": gpu.driver}
    return {"kinds": gpu.kinds, "devices": number, **found}


def target_config(gpu: Gpu) -> str:
    """XLA's GpuTargetConfigProto as text."""
    major, minor = gpu.compute_capability.split(".")
    feature = "ACCELERATED_FEATURES" if gpu.accelerated else "NONE"
    capability = f"cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {feature} }}"
    return "\n".join(
        [
            f"gpu_device_info {{ {' '.join(_fields(gpu.figures))} {capability} }}",
            'platform_name: "CUDA"',
            f"dnn_version_info {{ major: {_CUDNN[0]} minor: {_CUDNN[1]} }}",
            f'device_description_str: "{gpu.kinds[0]}"',
        ]
    )


def model(gpu: Gpu) -> str:
    """The name by which XLA's autotuner knows the GPU that `target_config` describes."""
    figures = gpu.figures
    return (
        f"CUDA: {gpu.compute_capability}, Cores: {figures['core_count']}, "
        f"GPU clock: {figures['clock_rate_ghz']:g} GHz, "
        f"Memory bandwidth: {int(figures['memory_bandwidth']) // 10**9} GB/s, "
        f"L2 cache: {figures['l2_cache_size'] / 2**20:g} MB, DNN version: {_CUDNN[0]}.{_CUDNN[1]}.0"
    )


def _set(target: CudaTarget) -> Mapping[str, Value]:
    return _REPLAYING if target.tuning is not None else _FLAGS


def _given(target: CudaTarget) -> Mapping[str, Value]:
    return xla_flags.parse_flags("cuda", target.xla_flags)


def _fields(figures: Mapping[str, accelerators.DeviceNumber]) -> Iterator[str]:
    return (f"{name}: {value}" for name, value in figures.items())


def _link_toolkit() -> None:
    """Lays ptxas and libdevice where XLA looks for them by a relative path, which so is the same on every machine."""
    spec = importlib.util.find_spec(_TOOLKIT)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"target cuda: {_TOOLKIT} cannot be imported; pip install {extras.pip_requirement('cuda')}")
    link = Path(deviceless.TOOLKIT)
    if not link.is_symlink():
        link.symlink_to(next(iter(spec.submodule_search_locations)))
