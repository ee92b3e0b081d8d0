"""What the builder asks of a model, and how to bring one of your own.

In the manifest, `factory` names a callable in a module beside it; it gets the `arguments` and returns a
`BuildableModel`:

    model: {factory: "scale:make", arguments: {width: 16}}
    precompile: {batch_size: [1, 4]}

The module says what the weights are and how the function to serve takes them; shapes are those of one combo, and the
axes that follow a precompile dimension are named by it. This is all of `scale.py`:

    import numpy as np
    from aot import chain
    from aot.chain import Array

    class Scale:
        def __init__(self, width):
            self.width = width

        def abstract_weights(self):
            return {"factors": Array((self.width,), "float32")}

        def weights(self):
            yield "factors", np.linspace(0.0, 1.0, self.width, dtype="float32")

        def chains(self, combo, platform, mesh):
            features = Array((combo.batch_size, self.width), "float32")
            axes = ("batch_size", None)
            inputs, outputs = {"features": (features, axes)}, {"scaled": axes}
            return {"scale": chain.single("scale", self.scale, self.abstract_weights(), inputs, outputs)}

        def scale(self, weights, features):
            return {"scaled": features * weights["factors"]}

    def make(width):
        return Scale(width)

Served with `model.call("scale", features=…)`, for any number of rows up to 4. `chain.like(array)` gives the Array of a
parameter that is there already. A phase of several programs, or one that carries state, is spelled with
`chain.program` and `chain.call`. Matrices are best stored (out, in).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from aot.chain import Array, Chain
from aot.partition import Dimensions
from aot.precompile import Combo


@runtime_checkable
class BuildableModel(Protocol):
    """A model as the builder sees it."""

    def abstract_weights(self) -> Mapping[str, Array]:
        """Shape and dtype of every weight, by parameter path, without reading any."""

    def weights(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """Every weight once, in the order of `abstract_weights`, one at a time."""

    def chains(self, combo: Combo, platform: str, mesh: Mapping[str, int]) -> Mapping[str, Chain]:
        """The chain of each phase. Phases of one name have the same outputs in every combo, and inputs of one name the
        same axes; some combos may do without an input.
        """


@runtime_checkable
class Named(Protocol):
    """A model that calls the axes of its arrays by names, which `partition.axes` of a manifest lays on a mesh.

    One without them is partitioned by `partition.rules` alone.
    """

    def dimensions(self, combo: Combo) -> Dimensions:
        """The dimensions of weights, inputs (`input/…`), state (`state/…`) and values (`value/…`), by pattern."""
