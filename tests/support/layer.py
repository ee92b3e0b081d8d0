"""A model of one program, whose source the tests of factors change: `factory: "layer:make"`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from aot import chain
from aot.chain import Array, Chain

WIDTH = 64
SCALE = 2.0
OFFSET = 0.5


@dataclass(frozen=True)
class Scaled:
    factor: float

    def __call__(self, x: Any, weight: Any) -> Mapping[str, Any]:
        return {"y": jnp.tanh(jnp.dot(x, weight)) * SCALE * self.factor}


@dataclass(frozen=True)
class Shifted:
    def __call__(self, x: Any) -> Mapping[str, Any]:
        return {"y": x + OFFSET}


@dataclass(frozen=True)
class Layer:
    """One phase `run` of two calls: scaled, then shifted."""

    factor: float

    def abstract_weights(self) -> dict[str, Array]:
        return {"weight": Array((WIDTH, WIDTH), "float32"), "unused": Array((3,), "float32")}

    def weights(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        stored = Path(__file__).with_name("weight.txt")  # as a checkpoint would be
        yield "weight", np.full((WIDTH, WIDTH), float(stored.read_text()), np.float32)
        yield "unused", np.zeros(3, np.float32)

    def chains(self, combo: Any, platform: str, mesh: Mapping[str, int]) -> dict[str, Chain]:
        rows = Array((combo.batch_size, WIDTH), "float32")
        weight = {"weight": Array((WIDTH, WIDTH), "float32")}
        scaled = chain.program("scaled", Scaled(self.factor), {"x": rows, **weight})
        shifted = chain.program("shifted", Shifted(), {"x": rows})
        calls = (
            chain.call(scaled, {"x": "input/x", "weight": "weight/weight"}, {"y": "value/x"}),
            chain.call(shifted, {"x": "value/x"}, {"y": "output/y"}),
        )
        return {"run": Chain(calls, {"x": ("batch_size", None)}, {"y": ("batch_size", None)})}


def make(factor: float = 1.0) -> Layer:
    return Layer(factor)
