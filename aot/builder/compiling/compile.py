"""Compiling: one stored program to one executable, in canonical bytes, in a worker started for its target."""

import math
from typing import Any, Protocol, TypeVar

from aot import extras
from aot.builder import settings
from aot.builder.compiling import canonical, cpu, cuda, tpu, tuning
from aot.builder.compiling.deviceless import Made
from aot.bundle.index.bounds import Mesh
from aot.bundle.index.records import ExecutableRecord
from aot.bundle.writer import Writer
from aot.errors import AotError, InputError
from aot.targets import Target
from aot.tuning import ADVICE

T = TypeVar("T", bound=Target, contravariant=True)


class Platform(Protocol[T]):
    """What the module of a platform says of its targets."""

    def check(self, target: T) -> None:
        """Raises InputError or MachineError where this machine cannot compile for the target."""

    def environment(self, target: T) -> dict[str, str]:
        """Variables for a worker of the target."""

    def flags(self, target: T) -> tuple[str, ...]:
        """The flags of XLA that we set, beside those of the manifest."""

    def devices(self, target: T, number: int) -> list[Any]:
        """So many devices of the target to compile for."""

    def compiled(self, lowered: Any, target: T) -> Made:
        """What XLA makes of a `jax.stages.Lowered`, in canonical bytes."""

    def requires(self, target: T, number: int) -> dict[str, Any]:
        """What a machine must have to run what is compiled for so many devices of the target."""


_PLATFORMS: dict[str, Platform[Any]] = {"cpu": cpu, "cuda": cuda, "tpu": tpu}


def check_target(target: Target) -> None:
    """Raises InputError or MachineError where this machine cannot compile for the target."""
    _PLATFORMS[target.platform].check(target)


def environment(target: Target) -> dict[str, str]:
    """Variables for a worker of a target."""
    return _PLATFORMS[target.platform].environment(target)


def flags(target: Target) -> tuple[str, ...]:
    """All flags of XLA for a target: ours, and those of the manifest."""
    return (*_PLATFORMS[target.platform].flags(target), *target.xla_flags)


def compiler(target: Target) -> dict[str, str]:
    """The versions of all that compiles for a target, as far as it is installed."""
    import jaxlib.version

    return {"jaxlib": jaxlib.version.__version__, **extras.wheel_versions(target.platform)}


def requires(target: Target) -> dict[str, Any]:
    """What a machine must have to run what is compiled for a target."""
    return _PLATFORMS[target.platform].requires(target, math.prod(target.mesh.values()))


def executable(program: str, mesh: Mesh, target: Target, writer: Writer) -> ExecutableRecord:
    """Compiles the program with this digest, lowered for a mesh, into a blob.

    Raises AotError for what XLA refuses, code outside what the target declares, or bytes that are not as expected,
    InputError for a tuning that lacks a choice.
    """
    import jax

    settings.apply()
    platform = _PLATFORMS[target.platform]
    if tuned := tuning.tuning_blob(target):
        tuning.lay(writer.read(tuned.digest), target.name)
    devices = platform.devices(target, math.prod(size for _, size in mesh))
    try:
        made = platform.compiled(lowered_for(writer.read(program), mesh, devices), target)
    except jax.errors.JaxRuntimeError as error:
        raise refusal(program, target, str(error)) from error
    canonical.check_paths(made.data, f"executable of program {program[:19]}…")
    blob = writer.add(made.data)
    return ExecutableRecord(
        target=tuning.without(target).plain(),
        digest=blob.digest,
        bytes=blob.bytes,
        flags=flags(target),
        compiler=compiler(target),
        requires=requires(target),
        memory=_memory(made.memory),
        cost=_cost(made.cost),
        tuning=tuned,
    )


def refusal(program: str, target: Target, cause: str) -> AotError:
    """What to raise where XLA does not compile the program with this digest for a target."""
    if operation := tuning.missed(cause):
        return InputError(
            f"target cuda {target.name}: its tuning has no choice for {operation} of program {program[:19]}…, "
            f"and a build makes none: {ADVICE}"
        )
    return AotError(f"program {program[:19]}… for {target.platform}: XLA refuses it: {' '.join(cause.split())}")


def lowered_for(program: bytes, mesh: Mesh, devices: list[Any]) -> Any:
    """A stored program for the mesh of some devices, in their order; on one device no mesh is named."""
    import jax
    import numpy as np
    from jax.sharding import SingleDeviceSharding

    from aot.runtime.device import exports

    grid: Any = np.array(devices, object).reshape([size for _, size in mesh])
    named = jax.sharding.Mesh(grid, [name for name, _ in mesh])
    alone = SingleDeviceSharding(devices[0])
    return exports.lower_export(
        program, lambda exported: [given or alone for given in exported.in_shardings_jax(named)]
    )


def _memory(analysis: Any) -> dict[str, int]:
    return {
        "arguments": int(analysis.argument_size_in_bytes),
        "outputs": int(analysis.output_size_in_bytes),
        "aliased": int(analysis.alias_size_in_bytes),
        "temporaries": int(analysis.temp_size_in_bytes),
        "code": int(analysis.generated_code_size_in_bytes),
    }


def _cost(analysis: Any) -> dict[str, int]:
    """What XLA counts in a program, loops once; nothing where its compiler for the platform does not say."""
    names = {"flops": "flops", "transcendentals": "transcendentals", "bytes accessed": "bytes_accessed"}
    return {name: int(analysis[key]) for key, name in names.items() if analysis and analysis.get(key, -1) >= 0}
