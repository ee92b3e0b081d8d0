"""Holding a compiler to a declared ISA that compiles for the building CPU: the way before jaxlib 0.11.2.

`--xla_cpu_max_isa` takes AVX-512 and AMX from the compiler and leaves the rest of the building CPU's features, GFNI
and AVX-VNNI among them; and where it has nothing to take away, code is scheduled for the building CPU. Both show in the
code. LLVM reads attributes for functions from a file, if asked to, and an attribute outweighs the compiler's own
target; but the file has to name each function. So a program is compiled twice: without optimization, which leaves all
functions in the object files, for their names; and held.

XLA itself asks the building CPU too, before there are functions: rsqrt takes a Newton step fewer where there is SSE4a,
on AMD. An option ends that. None does where there is AVX-NE-CONVERT: floats are rounded to bfloat16 by other code.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aot import isa
from aot.builder.compiling import canonical, instructions
from aot.errors import AotError, MachineError
from aot.isa import Baseline
from aot.xla_flags import FlagValue

FILE = "isa.csv"
"""Read from the directory of the process, so that no path of the machine gets into the options."""

BACKEND = (f"--forceattrs-csv-path={FILE}", "xla_cpu_disable_platform_dependent_math=true")
"""Extra options of the backend."""

_UNHELD = "avx_ne_convert"  # by the name of /proc/cpuinfo

_NOISE = "Function in CSV file at line "
_PARTS = ("", "_wrapped", "_impl")  # a function, and what XLA names after it and inlines at once, so that none is seen


def check(baseline: Baseline) -> None:
    """XLA compiles for no more than the machine has; less would be called what it is not. Raises MachineError."""
    here = isa.this_machine()
    if lacking := isa.missing_features({"machine": baseline.machine, "features": baseline.kernel}, here):
        raise MachineError(
            f"target cpu {baseline.name}: this jaxlib builds it only on a machine that has it, this one lacks "
            f"{', '.join(lacking[:4])}; build there, with a newer jaxlib, or choose another isa"
        )
    if _UNHELD in here.features:
        raise MachineError(
            f"target cpu {baseline.name}: this jaxlib gives other code on a CPU with {_UNHELD}, as this one, and the "
            "bundle would not be reproduced elsewhere; build with a newer jaxlib, or on another machine"
        )


def flags(baseline: Baseline) -> tuple[str, ...]:
    """What XLA_FLAGS says in a process whose compiler is held to an ISA."""
    return (f"--xla_cpu_max_isa={baseline.xla_max_isa}",)


def devices(baseline: Baseline, number: int) -> list[Any]:
    """So many virtual devices of this process. To be called before XLA starts in it."""
    import jax

    jax.config.update("jax_num_cpu_devices", number)
    return list(jax.devices("cpu"))


def compile(lowered: Any, baseline: Baseline, options: Mapping[str, FlagValue]) -> Any:
    """A `jax.stages.Lowered` compiled for the baseline and nothing beyond, in a process started with `flags`."""
    Path(FILE).write_text("")
    plain = _bytes(lowered.compile({**options, "xla_backend_optimization_level": 0}))
    Path(FILE).write_text(attributes(instructions.functions(plain), baseline))
    held = lowered.compile(dict(options))
    if canonical.kernels(_bytes(held)) != canonical.kernels(plain):
        raise AotError("executable: two compiles of one program gave kernels of different names; report it")
    return held


def cost(compiled: Any) -> Any:
    """What XLA counts in it."""
    return compiled.cost_analysis()


def attributes(functions: Iterable[str], baseline: Baseline) -> str:
    """The lines `function,attribute=value` that hold functions to a baseline."""
    features = ",".join(f"+{name}" for name in (*baseline.llvm, *baseline.preferences))
    held = (f"target-cpu={baseline.level}", f"target-features={features}")
    return "".join(f"{function}{part},{line}\n" for function in functions for part in _PARTS for line in held)


def is_noise(line: str) -> bool:
    """Whether a line of a log is LLVM's remark on a name that another object file defines, and no cause of anything."""
    return line.startswith(_NOISE)


def _bytes(compiled: Any) -> bytes:
    return bytes(compiled.runtime_executable().serialize())
