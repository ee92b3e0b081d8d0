"""Executables to test with, each compiled once in a process of its own."""

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import aot
from aot.builder.compiling import cpu, pin
from aot.targets import CpuTarget

_BUILD = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_traceback_in_locations_limit", 0)
import jax.numpy as jnp
from aot import isa
from aot.builder.compiling import compile, cpu, pin
from aot.targets import CpuTarget

def mixed(x, w, b):
    by_rows = (((1,), (1,)), ((), ()))
    narrow = jax.lax.dot_general(x.astype(jnp.bfloat16), b, by_rows, preferred_element_type=jnp.float32)
    row = jax.lax.dot_general(x[:1], w, by_rows, preferred_element_type=jnp.float32)
    start = (0, jax.nn.softmax(x @ w, -1) + narrow + row)
    return jax.lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, jnp.tanh(c[1] @ w) + c[0]), start)[1]

def shift(x):
    return x >> 3, (x << 1) + 1

def lowered(devices, function, *arguments):
    exported = jax.export.export(jax.jit(function), platforms=["cpu"])(*arguments)
    return compile.lowered_for(bytes(exported.serialize()), (), devices)

def raw(compiled):
    return bytes(compiled.runtime_executable().serialize())

def held(function, *arguments):
    return raw(cpu.way().compile(lowered(devices, function, *arguments), baseline, {}))

directory, baseline = Path(sys.argv[1]), isa.find_baseline(sys.argv[2])
devices = cpu.devices(CpuTarget(baseline.name, 32), 1)
of = jax.ShapeDtypeStruct
arguments = of((16, 64), "float32"), of((64, 64), "float32"), of((64, 64), "bfloat16")
directory.joinpath("mixed").write_bytes(held(mixed, *arguments))
directory.joinpath("shift").write_bytes(held(shift, of((1000,), "uint8")))
Path(pin.FILE).write_text("")
directory.joinpath("free").write_bytes(raw(lowered(jax.devices("cpu"), shift, of((1000,), "uint8")).compile()))
"""


@functools.cache
def built(name: str, seed: str = "0", cores: int = 0) -> dict[str, bytes]:
    """What XLA serialized for an ISA: `mixed` and `shift`, held to it, and `free`, the same shift left to XLA.

    `seed` is the process's hash seed, `cores` how many cores it sees (0: all).
    """
    with tempfile.TemporaryDirectory() as directory:
        variables = {**cpu.environment(CpuTarget(name, 32)), "PYTHONHASHSEED": seed, "HOME": directory}
        run(_BUILD, directory, name, directory=directory, cores=cores, **variables)
        return {path.name: path.read_bytes() for path in Path(directory).iterdir() if path.name != pin.FILE}


def run(
    script: str, *arguments: str, directory: str, cores: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A script run by a fresh Python that can import aot."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(aot.__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
    limit = (lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])) if cores else None
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=directory, env=environment | {"NPROC": "32"} | variables, preexec_fn=limit, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done
