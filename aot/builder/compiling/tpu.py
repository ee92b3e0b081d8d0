"""Compiling for TPUs, on a machine that has none: libtpu knows the topologies by name."""

from typing import Any

from aot import devices as accelerators
from aot import extras, xla_flags
from aot.builder.compiling import deviceless
from aot.builder.compiling.deviceless import Made
from aot.errors import AotError, InputError
from aot.targets import TpuTarget

_HOST = (2, 2, 1)
"""Chips of one host in each direction, as libtpu takes them; of a topology of less than that, one host has all."""


def check(target: TpuTarget) -> None:
    """Raises InputError where the compiler is not installed."""
    if lacking := extras.missing_extra("tpu"):
        raise InputError(f"target tpu {target.topology}: {lacking}, or leave the target out")


def environment(target: TpuTarget) -> dict[str, str]:
    """What libtpu would otherwise look up on the network, or in files, of the machine that it thinks it is on."""
    return {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # of no importance: the topology is given by name
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_LOG_DIR": "disabled",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # only one process may have a TPU, but none has any here
    }


def flags(target: TpuTarget) -> tuple[str, ...]:
    """The flags of XLA that we set."""
    return ()


def devices(target: TpuTarget, number: int) -> list[Any]:
    """The first devices of the topology. Raises InputError for a topology that there is not."""
    text = target.topology
    tpu, shape = accelerators.parse_topology(text)
    bounds = tuple(map(min, zip(_HOST, (*shape, 1), strict=False)))
    try:
        found = deviceless.devices("tpu", text, chips_per_host_bounds=bounds)
    except Exception as error:  # jaxlib raises several types of its own
        cause = str(error).partition("\n")[0]
        if not cause.startswith("INVALID_ARGUMENT"):
            raise AotError(f"target tpu {text}: {cause}") from error
        raise InputError(f"target tpu {text}: {cause}; choose a topology that there is, as v5e:2x2") from error
    if (kind := found[0].device_kind) != tpu.kind:
        raise AotError(f"target tpu {text}: libtpu calls its devices {kind!r}, not {tpu.kind!r}; report it")
    return found[:number]


def compiled(lowered: Any, target: TpuTarget) -> Made:
    """What XLA made; its bytes are the same on every machine as they are."""
    return deviceless.compiled(lowered, xla_flags.parse_flags("tpu", target.xla_flags))


def requires(target: TpuTarget, number: int) -> dict[str, Any]:
    """The TPUs."""
    tpu, _ = accelerators.parse_topology(target.topology)
    return {"kinds": (tpu.kind,), "devices": number}
