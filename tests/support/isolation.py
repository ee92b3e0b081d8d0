"""Scripts that are refused what only building needs."""

import json
import os
import subprocess
import sys
from pathlib import Path

BUILDING = (
    "flax",
    "transformers",
    "orbax",
    "yaml",
    "pydantic",
    "click",
    "torch",
    "tensorstore",
    "capstone",
    "elftools",
)

SERVING = """
import json, os, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[3].split():
            raise ImportError(f"{name} must not be imported to serve")

sys.meta_path.insert(0, Refuse())
import aot
from aot.runtime.device import client, compilations

def seen():
    dumped = len(os.listdir(sys.argv[2]))
    return {"compilations": compilations.count_compilations(), "dumped": dumped, "jax": "jax" in sys.modules}
"""
"""How a script begins that is refused what only building needs; `seen()` tells what it has compiled."""


def served(script: str, bundle: Path, dump: Path, *arguments: object) -> dict[str, object]:
    """What a script tells, from an interpreter in which the packages for building cannot be imported."""
    dump.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SERVING + script, bundle, dump, " ".join(BUILDING), *map(str, arguments)],
        env={**os.environ, "XLA_FLAGS": f"--xla_dump_to={dump}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
