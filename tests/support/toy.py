"""A model that lowers and compiles in no time, or as slowly as a test wants: `factory: "toy:Toy"`."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aot import chain
from aot.chain import Array, Call, Chain

PAUSE = 120.0  # longer than any test waits


@dataclass(frozen=True)
class Scale:
    """x times the weight, plus a number that makes a program of its own; tracing it may take forever."""

    number: int
    stuck: bool

    def __call__(self, x: Any, weight: Any) -> Mapping[str, Any]:
        if self.stuck:
            time.sleep(PAUSE)
        return {"y": x * weight[: x.shape[0]] + self.number}


@dataclass(frozen=True)
class Toy:
    """One phase `scale` that calls each of some programs once."""

    programs: int = 1
    weights_size: int = 16
    stuck: str = ""
    """The step that never ends: weights or lower."""
    value: int | None = None
    """Of all weights; without it they count from 0."""

    def abstract_weights(self) -> Mapping[str, Array]:
        return {"weight": Array((self.weights_size,), "float32")}

    def weights(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        if self.stuck == "weights":
            time.sleep(PAUSE)
        counted = np.arange(self.weights_size, dtype=np.float32)
        yield "weight", counted if self.value is None else np.full_like(counted, self.value)

    def chains(self, combo: Any, platform: str, mesh: Mapping[str, int]) -> Mapping[str, Chain]:
        calls = tuple(self._call(combo.batch_size, number) for number in range(self.programs))
        return {"scale": Chain(calls, {"x": ("batch_size",)}, {"y": ("batch_size",)})}

    def _call(self, rows: int, number: int) -> Call:
        arguments = {"x": Array((rows,), "float32"), "weight": Array((self.weights_size,), "float32")}
        program = chain.program("scale", Scale(number, self.stuck == "lower"), arguments)
        source = "input/x" if number == 0 else "value/x"
        result = "output/y" if number == self.programs - 1 else "value/x"
        return chain.call(program, {"x": source, "weight": "weight/weight"}, {"y": result})


def manifest(directory: Path, **arguments: Any) -> Path:
    """Writes a manifest of this model, with this file beside it."""
    directory.mkdir(exist_ok=True)
    (directory / "toy.py").write_text(Path(__file__).read_text())
    file = directory / "toy.yaml"
    model = f'{{factory: "toy:Toy", arguments: {{{", ".join(f"{k}: {v}" for k, v in arguments.items())}}}}}'
    file.write_text(f"name: toy\nmodel: {model}\nprecompile: {{batch_size: 4}}\nplatforms: [cpu]\n")
    return file
