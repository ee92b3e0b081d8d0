"""Compiling for accelerators that the machine does not have, through the plugins that drive them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from aot.xla_flags import FlagValue

TOOLKIT = "./cuda_sdk_lib"
"""Where XLA looks for NVIDIA's compiler if nobody says otherwise, from the directory of the process."""

ENVIRONMENT = {"CUDA_ROOT": TOOLKIT}
"""Variables of every worker: else jax writes the path of NVIDIA's wheels, if there are any, into all it compiles."""


def devices(platform: str, name: str, **described: Any) -> list[Any]:
    """The devices of a named topology, good for nothing but to compile for."""
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(name, platform, **described).devices)


class Made(NamedTuple):
    """What XLA made of a program for a target."""

    data: bytes
    memory: Any
    """XLA's `CompiledMemoryStats`."""
    cost: Any
    """What XLA counts in it, by name; None where its compiler does not say."""


def compiled(lowered: Any, options: Mapping[str, FlagValue | str]) -> Made:
    """What XLA made, its bytes as they are."""
    made = lowered.compile(dict(options))
    return Made(bytes(made.runtime_executable().serialize()), made.memory_analysis(), made.cost_analysis())
