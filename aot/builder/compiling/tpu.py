"""Compiling for TPUs, on a machine that has none: libtpu knows the topologies by name."""

from collections.abc import Mapping
from typing import Any

from aot import devices as accelerators
from aot import extras, xla_flags
from aot.builder.compiling import deviceless
from aot.builder.compiling.deviceless import Made
from aot.errors import AotError, InputError

Options = Mapping[str, Any]
"""The options of a tpu target: topology and so on."""

_HOST = (2, 2, 1)
"""Chips of one host in each direction, as libtpu takes them; of a topology of less than that, one host has all."""


def check(options: Options) -> None:
    """Raises InputError where the compiler is not installed."""
    if lacking := extras.missing_extra("tpu"):
        raise InputError(f"target tpu {options['topology']}: {lacking}, or leave the target out")


def environment(options: Options) -> dict[str, str]:
    """What libtpu would otherwise look up on the network, or in files, of the machine that it thinks it is on."""
    return {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # of no importance: the topology is given by name
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_LOG_DIR": "disabled",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # only one process may have a TPU, but none has any here
    }


def flags(options: Options) -> tuple[str, ...]:
    """The flags of XLA that we set."""
    return ()


def devices(options: Options, number: int) -> list[Any]:
    """The first devices of the topology. Raises InputError for a topology that there is not."""
    text = options["topology"]
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


def compiled(lowered: Any, options: Options) -> Made:
    """What XLA made; its bytes are the same on every machine as they are."""
    return deviceless.compiled(lowered, xla_flags.parse_flags("tpu", options.get("xla_flags", ())))


def requires(options: Options, number: int) -> dict[str, Any]:
    """The TPUs."""
    tpu, _ = accelerators.parse_topology(options["topology"])
    return {"kinds": (tpu.kind,), "devices": number}
