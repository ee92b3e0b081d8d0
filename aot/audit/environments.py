"""The environments that an audit rebuilds in: all that must not show in a bundle, another value for each round."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import aot
from aot.builder import workers
from aot.builder.compiling import emulation

T = TypeVar("T")

_LOCALES = ("C", "tr_TR.UTF-8", "de_DE.ISO-8859-1", "C.UTF-8")
_ZONES = ("Asia/Kathmandu", "Pacific/Chatham", "America/St_Johns")
_CLOCKS = ("1", "4102444800", "946684799")
_MASKS = (0o077, 0o000, 0o027)
_THREADS = ("3", "1", "64")
_XLA_FLAGS = (
    "--xla_cpu_max_isa=SSE4_2 --xla_backend_optimization_level=0",
    "--xla_force_host_platform_device_count=4 --xla_cpu_enable_fast_math=true",
    "--xla_cpu_max_isa=AVX --xla_llvm_disable_expensive_passes=true",
)
_JAX: tuple[dict[str, str], ...] = (
    {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_MATMUL_PRECISION": "highest", "JAX_PLATFORMS": "nothing"},
    {"JAX_THREEFRY_PARTITIONABLE": "0", "JAX_DEBUG_NANS": "1", "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "-1"},
    {"JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_DISABLE_JIT": "1"},
)
_DROPPED = ("JAX_", "XLA_", "LC_", "LANG", "PYTHON", "TF_")


@dataclass(frozen=True)
class Environment:
    """What one round differs in from the build that it repeats."""

    round: int
    """Counted from 1; it also names the directories, and seeds the order in which files are listed."""
    variables: Mapping[str, str]
    umask: int
    jobs: int
    cores: tuple[int, ...]
    """Cores that the process may use; empty where the kernel does not say."""
    cpu: str | None = None
    """What its workers run on, emulated; None for the machine's own."""

    def plain(self) -> dict[str, Any]:
        """The values that JSON can hold."""
        return {**asdict(self), "umask": f"{self.umask:03o}", "cores": len(self.cores) or None, "files": "shuffled"}

    def start(self, home: Path, module: str, arguments: list[str]) -> "subprocess.Popen[bytes]":
        """Runs a module of a copy of this package in a fresh process; all it writes goes to or below `home`."""
        source = home / f"source-{self.round}"
        shutil.copytree(Path(aot.__file__).parent, source / "aot", ignore=shutil.ignore_patterns("__pycache__"))
        # What starts Python also runs this; the builder's workers find it as they find the package.
        shutil.copyfile(Path(__file__).with_name("shuffled.py"), source / "sitecustomize.py")
        for name in ("home", "scratch"):
            (home / name).mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_DROPPED) and name != "NPROC"}
        places = {
            "HOME": str(home / "home"),
            "TMPDIR": str(home / "scratch"),
            "PYTHONPATH": os.pathsep.join([str(source), *workers.importable()]),
        }
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=home,
            env={**kept, **self.variables, **places, "PYTHONDONTWRITEBYTECODE": "1"},
            umask=self.umask,
            start_new_session=True,  # Ctrl-C reaches the audit alone, which then ends it
        )


def environment_of(round: int, cpu: str | None = None) -> Environment:
    """The environment of a round, counted from 1; each kind of noise runs through a list of its own.

    With a CPU, by QEMU's name, workers run on that.
    """

    def one(values: tuple[T, ...]) -> T:
        return values[(round - 1) % len(values)]

    variables = {
        "PYTHONHASHSEED": str(round * 4711 % 2**32),
        "LC_ALL": one(_LOCALES),
        "TZ": one(_ZONES),
        "SOURCE_DATE_EPOCH": one(_CLOCKS),
        "NPROC": one(_THREADS),
        "XLA_FLAGS": one(_XLA_FLAGS),
        **one(_JAX),
        **({emulation.VARIABLE: cpu} if cpu else {}),
    }
    return Environment(round, variables, one(_MASKS), 1 + round % 3, _cores(round), cpu)


def restrict(cores: tuple[int, ...]) -> None:
    """Lets this process, and those that it starts, use these cores alone."""
    if cores:
        os.sched_setaffinity(0, cores)


def _cores(round: int) -> tuple[int, ...]:
    """One core less for each round, around to all of them."""
    try:
        available = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, available)  # whether that may be changed
    except (AttributeError, OSError):
        return ()
    return tuple(available[: len(available) - round % len(available)])
