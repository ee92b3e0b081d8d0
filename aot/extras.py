"""What this distribution needs of others: wheels that compile for each platform, and which extra has a module."""

import functools
from importlib import metadata

_EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    # of NVIDIA's wheels ptxas and libdevice: the rest of CUDA is only needed where there is a GPU
    "cuda": ("cuda13", ("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cuda-nvcc", "nvidia-nvvm")),
    "tpu": ("tpu", ("libtpu",)),
}

_MODULES = {
    "build": ("capstone", "elftools", "flax", "msgpack", "orbax", "pydantic", "tensorstore", "yaml"),
    "plot": ("matplotlib",),
    "sign": ("OpenSSL", "model_signing"),
    "": (
        "PIL", "click", "flatbuffers", "jax", "jaxlib", "jinja2", "ml_dtypes", "msgspec", "numpy", "rich",
        "safetensors", "tokenizers",
    ),
}  # fmt: skip
"""What each extra brings to be imported; that of no name is what is always needed."""


def compiler_wheels(platform: str) -> tuple[str, ...]:
    """The distributions whose code decides what an executable for a platform is; jaxlib goes without saying."""
    return _EXTRAS[platform][1] if platform in _EXTRAS else ()


def wheel_versions(platform: str) -> dict[str, str]:
    """The distributions for a platform that are installed, with their versions."""
    return {name: found for name in compiler_wheels(platform) if (found := wheel_version(name)) is not None}


@functools.cache
def wheel_version(wheel: str) -> str | None:
    """The version of an installed distribution, read off its metadata."""
    try:
        return metadata.version(wheel)
    except metadata.PackageNotFoundError:
        return None


def missing_extra(platform: str) -> str | None:
    """What lacks for building for a platform and how it is installed; None where nothing lacks."""
    lacking = [name for name in compiler_wheels(platform) if wheel_version(name) is None]
    if not lacking:
        return None
    return f"{', '.join(lacking)} not installed; pip install {pip_requirement(platform)}"


def pip_requirement(platform: str) -> str:
    """What to give pip for a platform."""
    return _named(_EXTRAS[platform][0])


def explain_import(error: ImportError) -> str:
    """What an import that failed says to a user: what to install, or that something installed does not work."""
    module = error.name or ""
    if not isinstance(error, ModuleNotFoundError):
        return f"{module or 'import'}: is installed and cannot be imported ({error}); install what fits this Python"
    top = module.partition(".")[0]
    found = next((_named(extra) for extra, modules in _MODULES.items() if top in modules), top)
    return f"{module or error}: is not installed; install it with: pip install {found}"


def _named(extra: str) -> str:
    return f"'jax-aot[{extra}]'" if extra else "jax-aot"
