"""Naming the CPU to compile for outright: a topology whose machine is the declared one, whatever CPU builds.

XLA serializes the topology of a client as `xla.PjRtTopologyDescriptionProto`, field 9 of which is an Any that holds
`xla.cpu.CpuTopologyProto`: 1 the devices (3 its number in the process), 5 the machine (1 triple, 2 CPU, 3 features by
LLVM's names). Written with the machine of a baseline and read back, it gives devices that one compiles for as for those
of an accelerator that is not there: nothing in the code tells the building CPU, and it need not have the baseline.
"""

from collections.abc import Mapping
from typing import Any

from aot import isa, wire
from aot.errors import MachineError
from aot.isa import Baseline
from aot.xla_flags import FlagValue

SINCE = (0, 11, 2)
"""The first jaxlib that reads such a topology."""

BACKEND = ()
"""Extra options of the backend: none, as what is compiled for is no option."""

_SPECIFIC, _VALUE = 9, 2
_DEVICE, _MACHINE = 1, 5
_NUMBER = 3
_TRIPLE, _CPU, _FEATURES = 1, 2, 3
_LINUX = "x86_64-unknown-linux-gnu"


def check(baseline: Baseline) -> None:
    """Any x86-64 CPU compiles for any baseline. Raises MachineError on another architecture."""
    if isa.missing_features({"machine": baseline.machine, "features": ()}, here := isa.this_machine()):
        raise MachineError(
            f"target cpu {baseline.name}: is built on {baseline.machine}, this machine is {here.machine}; build there"
        )


def flags(baseline: Baseline) -> tuple[str, ...]:
    """None, for the same reason."""
    return ()


def devices(baseline: Baseline, number: int) -> list[Any]:
    """So many virtual devices of the baseline's machine, good for nothing but to compile for."""
    import jax
    from jax.experimental.topologies import TopologyDescription
    from jaxlib import _jax

    own = _jax.get_topology_for_devices(jax.devices("cpu")).serialize()
    return list(TopologyDescription.deserialize(described(own, baseline, number)).devices)


def described(own: bytes, baseline: Baseline, number: int) -> bytes:
    """A serialized topology of a CPU with other devices in its place: so many, of the baseline's machine."""
    each = (wire.delimited(_DEVICE, _numbered(place)) for place in range(number))
    machine = wire.delimited(_MACHINE, _machine(baseline))
    return wire.changed_within(own, (_SPECIFIC, _VALUE), lambda _: wire.join_fields([*each, machine]))


def _numbered(place: int) -> bytes:
    """A device by its number in the one process; 0 is not written."""
    return wire.varint(_NUMBER << 3 | wire.VARINT) + wire.varint(place) if place else b""


def _machine(baseline: Baseline) -> bytes:
    features = ",".join(f"+{name}" for name in (*baseline.llvm, *baseline.preferences))
    said = {_TRIPLE: _LINUX, _CPU: baseline.level, _FEATURES: features}
    return wire.join_fields(wire.delimited(number, text.encode()) for number, text in said.items())


def compile(lowered: Any, baseline: Baseline, options: Mapping[str, FlagValue]) -> Any:
    """A `jax.stages.Lowered` for such devices, compiled."""
    return lowered.compile(dict(options))


def cost(compiled: Any) -> Any:
    """What XLA counts in it, which an executable that is not loaded does not tell itself."""
    import jax
    from jaxlib import _jax

    (module,) = compiled.runtime_executable().hlo_modules()
    return _jax.hlo_module_cost_analysis(jax.devices("cpu")[0].client, module)
