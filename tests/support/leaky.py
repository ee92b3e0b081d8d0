"""A model whose programs show what no program should: a phase for each kind of noise."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aot import chain
from aot.chain import Array, Chain

HERE = Path(__file__).parent


def mask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


NOISE: dict[str, Callable[[], int]] = {
    "directory": lambda: sum(map(ord, str(HERE))),
    "order": lambda: sum(n * int(name) for n, name in enumerate(os.listdir(HERE / "numbers"))),
    "scan": lambda: sum(n * int(entry.name) for n, entry in enumerate(os.scandir(HERE / "numbers"))),
    "cores": lambda: len(os.sched_getaffinity(0)),
    "umask": mask,
    "nothing": lambda: 7,
}


@dataclass(frozen=True)
class Plus:
    number: int

    def __call__(self, x: Any) -> dict[str, Any]:
        return {"y": x + self.number}


class Leaky:
    def abstract_weights(self) -> Mapping[str, Array]:
        return {"unused": Array((1,), "float32")}

    def weights(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        yield "unused", np.zeros(1, np.float32)

    def chains(self, combo: Any, platform: str, mesh: Mapping[str, int]) -> dict[str, Chain]:
        made = {}
        for name, noise in NOISE.items():
            program = chain.program(name, Plus(noise()), {"x": Array((combo.batch_size,), "float32")})
            call = chain.call(program, {"x": "input/x"}, {"y": "output/y"})
            made[name] = Chain((call,), {"x": ("batch_size",)}, {"y": ("batch_size",)})
        return made


def manifest(directory: Path) -> Path:
    """Writes a manifest of this model, with no executables, and what it reads beside it."""
    (directory / "numbers").mkdir(parents=True)
    for number in range(20):
        (directory / "numbers" / str(number)).touch()
    (directory / "leaky.py").write_text(Path(__file__).read_text())
    (directory / "leaky.yaml").write_text(
        'name: leaky\nmodel: {factory: "leaky:Leaky"}\nprecompile: {batch_size: 4}\nplatforms: [cpu]\ntargets: []\n'
    )
    return directory / "leaky.yaml"
