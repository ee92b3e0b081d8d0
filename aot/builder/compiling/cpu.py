"""Compiling for x86-64: what XLA:CPU makes for the declared instruction set, proven to keep to it.

How XLA is told what to compile for depends on the jaxlib: it is named outright (`topology`), or the compiler, which
would compile for the building CPU, is held (`pin`).
"""

import os
from collections.abc import Mapping
from typing import Any, Protocol, cast

from aot import isa, xla_flags
from aot.builder.compiling import canonical, instructions, pin, topology
from aot.builder.compiling.deviceless import Made
from aot.errors import MachineError
from aot.isa import Baseline
from aot.targets import CpuTarget
from aot.xla_flags import FlagValue

CORE = "AOT_CORE"
"""Variable of a worker: a number by which workers of one build take different cores."""

_ONE_ORDER = "xla_cpu_small_while_loop_byte_threshold=0"
"""XLA would outline small loops in the order of a set of pointers, so that no two processes need agree."""

_PORTABLE = "--xla_cpu_enable_platform_dependent_math=false"
"""No approximation, and no kernel picked at run time, that only some CPUs have."""


class Way(Protocol):
    """How XLA is told what to compile for."""

    BACKEND: tuple[str, ...]
    """Extra options of the backend that it takes."""

    def check(self, baseline: Baseline) -> None:
        """Raises MachineError where this machine cannot compile for it."""

    def flags(self, baseline: Baseline) -> tuple[str, ...]:
        """The flags of XLA that it takes."""

    def devices(self, baseline: Baseline, number: int) -> list[Any]:
        """So many devices to compile for."""

    def compile(self, lowered: Any, baseline: Baseline, options: Mapping[str, FlagValue]) -> Any:
        """A `jax.stages.Compiled` of a `Lowered` for such devices."""

    def cost(self, compiled: Any) -> Any:
        """What XLA counts in it."""


def way() -> Way:
    """The way in which the installed jaxlib is told the CPU to compile for."""
    import jaxlib.version

    return cast(Way, topology if jaxlib.version.__version_info__ >= topology.SINCE else pin)


def check(target: CpuTarget) -> None:
    """Raises MachineError where this machine cannot compile for the target."""
    way().check(_baseline(target))
    held_to = os.sched_getaffinity(0)
    try:
        _cores()
    finally:
        os.sched_setaffinity(0, held_to)


def environment(target: CpuTarget) -> dict[str, str]:
    """Variables for the worker: XLA reads both once in a process."""
    return {"XLA_FLAGS": " ".join(flags(target)), "NPROC": str(target.threads)}


def flags(target: CpuTarget) -> tuple[str, ...]:
    """The flags of XLA that we set."""
    backend = ",".join((*way().BACKEND, _ONE_ORDER))
    portable = (_PORTABLE,) if target.arithmetic == "portable" else ()
    return (*way().flags(_baseline(target)), f"--xla_backend_extra_options={backend}", *portable)


def devices(target: CpuTarget, number: int) -> list[Any]:
    """Devices to compile for. To be called before XLA starts in this process."""
    _show_two_cores()
    return way().devices(_baseline(target), number)


def compiled(lowered: Any, target: CpuTarget) -> Made:
    """What XLA made, in canonical bytes. Raises AotError for code outside the declared instruction set."""
    baseline = _baseline(target)
    made = way().compile(lowered, baseline, xla_flags.parse_flags("cpu", target.xla_flags))
    data = canonical.executable(bytes(made.runtime_executable().serialize()), baseline)
    instructions.check_instructions(data, baseline)
    return Made(data, made.memory_analysis(), way().cost(made))


def requires(target: CpuTarget, number: int) -> dict[str, Any]:
    """The instruction set alone: a process has as many virtual devices as it asks for."""
    baseline = _baseline(target)
    return {"machine": baseline.machine, "features": baseline.kernel}


def _baseline(target: CpuTarget) -> Baseline:
    return isa.find_baseline(target.isa)


def _show_two_cores() -> None:
    """Leaves this process two cores, before XLA starts in it, so that XLA sees as many on every machine.

    NPROC sets the threads that code is made for, but XLA's ParallelTaskAssignment also splits a kernel bound by memory
    into at most the square root, rounded up, of the cores that the process may use: two for two, three or four cores.
    """
    cores = _cores()
    first = 2 * int(os.environ.get(CORE, 0))
    os.sched_setaffinity(0, {cores[(first + n) % len(cores)] for n in (0, 1)})


def _cores() -> list[int]:
    """The cores that this process may use, which is let go where it was held to one of several.

    Raises MachineError for one: XLA counts them itself, and nothing else tells it that they are two.
    """
    if len(os.sched_getaffinity(0)) < 2:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise MachineError("build: this machine lets a process use one core, and code is made for two; build elsewhere")
    return cores
