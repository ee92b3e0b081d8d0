"""Serving takes the runtime alone: what building needs is not even there, and nothing is compiled."""

import json
import os
import subprocess
import sys
from pathlib import Path

from isolation import served

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
