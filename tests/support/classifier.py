"""A model that is no language model: a flax MLP over features, as a user would bring it."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from aot import chain
from aot.chain import Array, Chain
from aot.precompile import Combo

FEATURES, CLASSES = 16, 3


class Network(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(FEATURES, width, rngs=rngs)
        self.output = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, features: jax.Array) -> jax.Array:
        return self.output(nnx.gelu(self.hidden(features)))


class Classifier:
    """Serves a Network: its parameters by path, and one phase, `classify`."""

    def __init__(self, network: Network) -> None:
        self.definition, state = nnx.split(network)
        self.state = {"/".join(map(str, path)): value.get_value() for path, value in nnx.to_flat_state(state)}

    def abstract_weights(self) -> dict[str, Array]:
        return {path: chain.like(value) for path, value in self.state.items()}

    def weights(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        for path, value in self.state.items():
            yield path, np.asarray(value)

    def chains(self, combo: Combo, platform: str, mesh: Mapping[str, int]) -> dict[str, Chain]:
        features = Array((combo.batch_size, FEATURES), "float32")
        axes = ("batch_size", None)
        inputs, outputs = {"features": (features, axes)}, {"logits": axes, "probabilities": axes}
        return {"classify": chain.single("classify", self.classify, self.abstract_weights(), inputs, outputs)}

    def classify(self, weights: Mapping[str, jax.Array], features: jax.Array) -> dict[str, jax.Array]:
        state = nnx.from_flat_state([(tuple(path.split("/")), nnx.Param(value)) for path, value in weights.items()])
        logits = nnx.merge(self.definition, state)(features)
        return {"logits": logits, "probabilities": jax.nn.softmax(logits)}


def make(width: int, seed: int = 0) -> Classifier:
    return Classifier(Network(width, nnx.Rngs(seed)))
