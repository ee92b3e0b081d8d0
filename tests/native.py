"""Executables to test with, each compiled once in a process of its own."""

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import aot
from aot import isa
from aot.builder import pin

_BUILD = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_traceback_in_locations_limit", 0)
import jax.numpy as jnp
from aot import isa
from aot.builder import canonical, pin

def mixed(x, w, b):
    by_rows = (((1,), (1,)), ((), ()))
    narrow = jax.lax.dot_general(x.astype(jnp.bfloat16), b, by_rows, preferred_element_type=jnp.float32)
    row = jax.lax.dot_general(x[:1], w, by_rows, preferred_element_type=jnp.float32)
    start = (0, jax.nn.softmax(x @ w, -1) + narrow + row)
    return jax.lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, jnp.tanh(c[1] @ w) + c[0]), start)[1]

def shift(x):
    return x >> 3, (x << 1) + 1

def lowered(function, *arguments):
    exported = jax.export.export(jax.jit(function), platforms=["cpu"])(*arguments)
    return jax.jit(jax.export.deserialize(exported.serialize()).call).lower(*arguments)

def raw(compiled):
    return bytes(compiled.runtime_executable().serialize())

directory, baseline = Path(sys.argv[1]), isa.baseline(sys.argv[2])
of = jax.ShapeDtypeStruct
arguments = of((16, 64), "float32"), of((64, 64), "float32"), of((64, 64), "bfloat16")
directory.joinpath("mixed").write_bytes(raw(pin.compile(lowered(mixed, *arguments), baseline, {})))
directory.joinpath("shift").write_bytes(raw(pin.compile(lowered(shift, of((1000,), "uint8")), baseline, {})))
Path(pin.FILE).write_text("")
directory.joinpath("free").write_bytes(raw(lowered(shift, of((1000,), "uint8")).compile()))
"""


@functools.cache
def built(name: str, seed: str = "0", cores: int = 0, preload: str = "") -> dict[str, bytes]:
    """What XLA serialized for an ISA: `mixed` and `shift`, held to it, and `free`, the same shift left to XLA.

    `seed` is the process's hash seed, `cores` how many cores it sees (0: all), `preload` a library to load first.
    """
    with tempfile.TemporaryDirectory() as directory:
        variables = {"XLA_FLAGS": f"--xla_cpu_max_isa={isa.baseline(name).xla_max_isa} {pin.FLAG}"}
        variables |= {"PYTHONHASHSEED": seed, "HOME": directory, "LD_PRELOAD": preload}
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
