"""Compiling for accelerators that the machine does not have, through the plugins that drive them."""

from collections.abc import Mapping
from typing import Any

from aot.xla_flags import Value

TOOLKIT = "./cuda_sdk_lib"
"""Where XLA looks for NVIDIA's compiler if nobody says otherwise, from the directory of the process."""

ENVIRONMENT = {"CUDA_ROOT": TOOLKIT}
"""For every worker: else jax writes the path of NVIDIA's wheels, where there are any, into all it compiles."""


def devices(platform: str, name: str, **described: Any) -> list[Any]:
    """The devices of a named topology, good for nothing but to compile for."""
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(name, platform, **described).devices)


def compiled(lowered: Any, options: Mapping[str, Value | str]) -> tuple[Any, bytes]:
    """What XLA made, and its bytes."""
    made = lowered.compile(dict(options))
    return made, bytes(made.runtime_executable().serialize())
