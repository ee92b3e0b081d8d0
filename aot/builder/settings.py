"""The options of jax that decide exported bytes, each set by us and recorded in the index."""

from collections.abc import Mapping
from typing import Any

LOWERING: Mapping[str, Any] = {
    "jax_default_matmul_precision": None,
    "jax_default_prng_impl": "threefry2x32",
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_threefry_partitionable": True,
    "jax_traceback_in_locations_limit": 0,  # programs and executables would name absolute paths and lines
}


def apply() -> None:
    """Sets the options in this process. Must come before it traces anything: afterwards some have no effect."""
    import jax

    for name, value in LOWERING.items():
        jax.config.update(name, value)
