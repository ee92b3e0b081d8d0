"""Ahead-of-time compiled inference artifacts: build once, verify anywhere, serve without compiling.

Names are imported when they are first used, so that `import aot` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str

    from aot.errors import (
        AotError,
        BundleError,
        ExpiredError,
        InputError,
        MachineError,
        ManifestError,
        NoEntryError,
        PeerError,
    )
    from aot.precompile import Combo, PreCompileConfig
    from aot.runtime.loading import load
    from aot.runtime.model import Model
    from aot.runtime.padding import pad
    from aot.runtime.peers.distributed import Distributed
    from aot.runtime.sequence import Result
    from aot.sampling import SamplingParams

__all__ = [
    "load",
    "Model",
    "Distributed",
    "Result",
    "pad",
    "SamplingParams",
    "PreCompileConfig",
    "Combo",
    "AotError",
    "BundleError",
    "ExpiredError",
    "InputError",
    "MachineError",
    "ManifestError",
    "NoEntryError",
    "PeerError",
]

_HOMES = {
    "load": "aot.runtime.loading",
    "Model": "aot.runtime.model",
    "Result": "aot.runtime.sequence",
    "Distributed": "aot.runtime.peers.distributed",
    "pad": "aot.runtime.padding",
    "SamplingParams": "aot.sampling",
    "PreCompileConfig": "aot.precompile",
    "Combo": "aot.precompile",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("jax-aot")
    if name not in __all__:
        raise AttributeError(f"module 'aot' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "aot.errors")), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
