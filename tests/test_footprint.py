"""The estimate of activations: the most that is alive at a time in any program of a plan."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from aot import plan as plans
from aot.builder import build, footprint

SOURCE = """
from aot import chain
from aot.chain import Array


class Model:
    def abstract_weights(self):
        return {"weight": Array((4,), "float32")}

    def weights(self):
        raise NotImplementedError

    def chains(self, combo, platform, mesh):
        few, many = Array((300,), "float32"), Array((1000,), "float32")
        weights = self.abstract_weights()
        return {
            "square": chain.single("square", square, weights, {"x": (few, (None,))}, {"y": ()}),
            "copy": chain.single("copy", copy, weights, {"x": (many, (None,))}, {"y": (None,)}),
        }


def square(weights, x):
    return {"y": (x[:, None] * x[None]).sum() * weights["weight"][0]}


def copy(weights, x):
    return {"y": x * weights["weight"][0]}
"""


def test_the_largest_activations_count_wherever_they_are(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(SOURCE)
    manifest = tmp_path / "a.yaml"
    manifest.write_text('name: a\nmodel: {factory: "model:Model"}\nprecompile: {batch_size: 1}\nplatforms: [cpu]\n')

    (found,) = build.count(plans.resolve(plans.read(manifest))).footprints

    assert 300 * 300 * 4 <= found.activations < 2 * 300 * 300 * 4


def peak(function, *arguments) -> int:
    return footprint._peak(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_what_a_loop_carries_and_a_barrier_hands_on_is_no_second_array() -> None:
    x, token = np.zeros(1000, np.float32), np.zeros((), np.int32)

    def barred(x, token):
        return jax.lax.optimization_barrier((x, token))

    def written(x, token):
        return jax.lax.fori_loop(0, 3, lambda i, x: x.at[i].set(1.0), x), token

    assert peak(barred, x, token) == 0
    assert peak(written, x, token) < x.nbytes
    assert peak(lambda x, token: jnp.tanh(x), x, token) == x.nbytes


def test_of_a_scan_what_it_stacks_counts_and_what_it_carries_does_not() -> None:
    start, steps = np.zeros(1000, np.float32), np.zeros(5, np.float32)

    def carried(start, steps):
        return jax.lax.scan(lambda sums, step: (jax.lax.optimization_barrier(sums), None), start, steps)

    def stacked(start, steps):
        return jax.lax.scan(lambda sums, step: (jax.lax.optimization_barrier(sums), sums), start, steps)

    assert peak(carried, start, steps) == 0
    assert peak(stacked, start, steps) == 5 * start.nbytes
