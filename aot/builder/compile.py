"""Compiling: one stored program to one executable, in canonical bytes, in a worker started for its target."""

import math
import os
from collections.abc import Mapping
from typing import Any

from aot import isa
from aot.builder import canonical, instructions, pin, settings
from aot.bundle.records import ExecutableRecord, Mesh
from aot.bundle.writer import Writer
from aot.errors import MachineError

CORE = "AOT_CORE"
"""Variable of a worker: a number by which workers of one build take different cores."""


def environment(target: Mapping[str, Any]) -> dict[str, str]:
    """Variables for the worker of a cpu target: XLA reads both once in a process."""
    return {"XLA_FLAGS": " ".join(flags(target)), "NPROC": str(target["cpu"]["threads"])}


def flags(target: Mapping[str, Any]) -> tuple[str, ...]:
    """XLA's options for a cpu target."""
    return f"--xla_cpu_max_isa={isa.baseline(target['cpu']['isa']).xla_max_isa}", pin.FLAG


def cpu(program: str, mesh: Mesh, target: Mapping[str, Any], writer: Writer) -> ExecutableRecord:
    """Compiles the program with this digest, lowered for a mesh, into a blob.

    Raises AotError for code outside the declared instruction set or bytes that are not as expected.
    """
    import jax
    import jaxlib
    from jax import export

    settings.apply()
    _show_two_cores()
    jax.config.update("jax_num_cpu_devices", math.prod(size for _, size in mesh))
    baseline = isa.baseline(target["cpu"]["isa"])
    exported = export.deserialize(bytearray(writer.read(program)))
    shardings = exported.in_shardings_jax(_mesh(mesh))
    described = zip(exported.in_avals, shardings, strict=True)
    specs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding) for aval, sharding in described]
    arguments, _ = jax.tree.unflatten(exported.in_tree, specs)
    # `Exported.call` drops donation: it has to be asked for again, for the first argument as when it was exported.
    lowered = jax.jit(exported.call, donate_argnums=0, keep_unused=True).lower(*arguments)
    compiled = pin.compile(lowered, baseline)
    data = canonical.executable(bytes(compiled.runtime_executable().serialize()), baseline)
    canonical.check_paths(data, f"executable of program {program[:19]}…")
    instructions.check(data, baseline)
    blob = writer.add(data)
    return ExecutableRecord(
        target=target,
        digest=blob.digest,
        bytes=blob.bytes,
        flags=flags(target),
        compiler={"jaxlib": jaxlib.__version__},
        requires={"machine": baseline.machine, "features": baseline.kernel},
        memory=_memory(compiled.memory_analysis()),
    )


def _mesh(mesh: Mesh) -> Any:
    """The mesh of as many devices of this process, in their order; of one device it has no axes."""
    import jax
    import numpy as np

    devices: Any = np.array(jax.devices(), object)
    return jax.sharding.Mesh(devices.reshape([size for _, size in mesh]), [name for name, _ in mesh])


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


def _memory(analysis: Any) -> dict[str, int]:
    return {
        "arguments": int(analysis.argument_size_in_bytes),
        "outputs": int(analysis.output_size_in_bytes),
        "aliased": int(analysis.alias_size_in_bytes),
        "temporaries": int(analysis.temp_size_in_bytes),
    }
