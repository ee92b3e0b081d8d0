"""Holding the compiler to a declared ISA, where XLA's own option does not.

`--xla_cpu_max_isa` takes AVX-512 and AMX from the compiler and leaves the rest of the building CPU's features, GFNI
and AVX-VNNI among them; and where it has nothing to take away, code is scheduled for the building CPU. Both show in the
code. LLVM reads attributes for functions from a file, if asked to, and an attribute outweighs the compiler's own
target; but the file has to name each function. So a program is compiled twice: without optimization, which leaves all
functions in the object files, for their names; and held.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aot.builder import canonical, instructions
from aot.errors import AotError
from aot.isa import Baseline
from aot.xla_flags import Value

FILE = "isa.csv"
"""Read from the directory of the process, so that no path of the machine gets into the options."""

FLAG = f"--xla_backend_extra_options=--forceattrs-csv-path={FILE}"
"""For XLA_FLAGS of a process that compiles held code."""

_NOISE = "Function in CSV file at line "
_PARTS = ("", "_wrapped", "_impl")  # a function, and what XLA names after it and inlines at once, so that none is seen


def compile(lowered: Any, baseline: Baseline, flags: Mapping[str, Value]) -> Any:
    """A `jax.stages.Lowered` compiled for the baseline and nothing beyond, in a process started with `FLAG`."""
    Path(FILE).write_text("")
    plain = _bytes(lowered.compile({**flags, "xla_backend_optimization_level": 0}))
    Path(FILE).write_text(attributes(instructions.functions(plain), baseline))
    held = lowered.compile(dict(flags))
    if canonical.kernels(_bytes(held)) != canonical.kernels(plain):
        raise AotError("executable: two compiles of one program gave kernels of different names; report it")
    return held


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
