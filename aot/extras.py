"""The wheels that compile for each platform beside jaxlib, and the extra of this distribution that brings them."""

import functools
from importlib import metadata

_EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    # of NVIDIA's wheels ptxas and libdevice: the rest of CUDA is only needed where there is a GPU
    "cuda": ("cuda13", ("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cuda-nvcc", "nvidia-nvvm")),
    "tpu": ("tpu", ("libtpu",)),
}


def wheels(platform: str) -> tuple[str, ...]:
    """The distributions whose code decides what an executable for a platform is; jaxlib goes without saying."""
    return _EXTRAS[platform][1] if platform in _EXTRAS else ()


def versions(platform: str) -> dict[str, str]:
    """Those that are installed, with their versions."""
    return {name: found for name in wheels(platform) if (found := version(name)) is not None}


@functools.cache
def version(wheel: str) -> str | None:
    """The version of an installed distribution, read off its metadata."""
    try:
        return metadata.version(wheel)
    except metadata.PackageNotFoundError:
        return None


def missing(platform: str) -> str | None:
    """What lacks for building for a platform and how it is installed; None where nothing lacks."""
    lacking = [name for name in wheels(platform) if version(name) is None]
    if not lacking:
        return None
    return f"{', '.join(lacking)} not installed; pip install {requirement(platform)}"


def requirement(platform: str) -> str:
    """What to give pip for a platform."""
    return f"'jax-aot[{_EXTRAS[platform][0]}]'"
