"""Serving takes the runtime alone: what building needs is not even there, and nothing is compiled."""

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
from aot.runtime import client

def seen():
    dumped = len(os.listdir(sys.argv[2]))
    return {"compilations": client.compilations(), "dumped": dumped, "jax": "jax" in sys.modules}
"""
"""How a script begins that is refused what only building needs; `seen()` tells what it has compiled."""

SCRIPT = """
with aot.load(sys.argv[1]) as model:
    one = model.generate("def main(", max_new_tokens=24)
    many = model.generate(["import os", "class A:", [1, 2, 3]], n=2, temperature=0.7, seed=1, max_new_tokens=20)
    text = "".join(model.stream("def main(", max_new_tokens=24))
served = seen()

import jax
jax.jit(lambda x: x + 1)(1.0)
building = [name for name in sys.argv[3].split() if name in sys.modules]
texts = [one.text, text, *(result.text for result in many)]
print(json.dumps({"texts": texts, "served": served, "after": seen(), "building": building}))
"""


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


def test_a_bundle_is_served_without_the_builders_packages_and_without_compiling(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    told = served(SCRIPT, tiny_bundle, tmp_path / "dump")
    one, streamed, *many = told["texts"]

    assert told["served"] == {"compilations": 0, "dumped": 0, "jax": False}
    assert told["after"]["compilations"] > 0  # both witnesses see a compile where there is one
    assert told["after"]["dumped"] > 0
    assert told["building"] == []
    assert one == streamed != ""
    assert len(many) == 6


def test_the_command_line_reports_no_compilation(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "aot.cli.main", "run", tiny_bundle, "--prompt", "def main(", "--json"],
        env={**os.environ, "XLA_FLAGS": f"--xla_dump_to={tmp_path / 'dump'}"},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert json.loads(done.stdout)["compilations"] == 0
    assert list((tmp_path / "dump").iterdir()) == []
