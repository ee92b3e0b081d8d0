"""Compiling for x86-64: what XLA:CPU makes, held to the declared instruction set and proven to keep to it."""

import os
from collections.abc import Mapping
from typing import Any

from aot import isa, xla_flags
from aot.builder import canonical, instructions, pin
from aot.errors import MachineError

CORE = "AOT_CORE"
"""Variable of a worker: a number by which workers of one build take different cores."""

Options = Mapping[str, Any]
"""Of a cpu target: isa, threads and so on."""


def check(options: Options) -> None:
    """XLA compiles for no more than the machine has; less would be called what it is not. Raises MachineError."""
    baseline = isa.baseline(options["isa"])
    if lacking := isa.missing({"machine": baseline.machine, "features": baseline.kernel}, isa.machine()):
        raise MachineError(
            f"target cpu {baseline.name}: can only be built on a machine that has it, this one lacks "
            f"{', '.join(lacking[:4])}; build there, or choose another isa"
        )


def environment(options: Options) -> dict[str, str]:
    """Variables for the worker: XLA reads both once in a process."""
    return {"XLA_FLAGS": " ".join(flags(options)), "NPROC": str(options["threads"])}


def flags(options: Options) -> tuple[str, ...]:
    """Those of XLA that we set."""
    return f"--xla_cpu_max_isa={isa.baseline(options['isa']).xla_max_isa}", pin.FLAG


def devices(options: Options, number: int) -> list[Any]:
    """The virtual devices of this process. To be called before XLA starts in it."""
    import jax

    _show_two_cores()
    jax.config.update("jax_num_cpu_devices", number)
    return list(jax.devices("cpu"))


def compiled(lowered: Any, options: Options) -> tuple[Any, bytes]:
    """What XLA made, and its canonical bytes. Raises AotError for code outside the declared instruction set."""
    baseline = isa.baseline(options["isa"])
    made = pin.compile(lowered, baseline, xla_flags.options("cpu", options.get("xla_flags", ())))
    data = canonical.executable(bytes(made.runtime_executable().serialize()), baseline)
    instructions.check(data, baseline)
    return made, data


def requires(options: Options, number: int) -> dict[str, Any]:
    """The instruction set alone: a process has as many virtual devices as it asks for."""
    baseline = isa.baseline(options["isa"])
    return {"machine": baseline.machine, "features": baseline.kernel}


def _show_two_cores() -> None:
    """Leaves this process two cores, before XLA starts in it, so that XLA sees as many on every machine.

    NPROC sets the threads that code is made for, but XLA's ParallelTaskAssignment also splits a kernel bound by memory
    into at most the square root, rounded up, of the cores that the process may use: two for two, three or four cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:  # a builder may have been held to one core of a machine that has more
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise MachineError("build: this machine lets a process use one core, and code is made for two; build elsewhere")
    first = 2 * int(os.environ.get(CORE, 0))
    os.sched_setaffinity(0, {cores[(first + n) % len(cores)] for n in (0, 1)})
