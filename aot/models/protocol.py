"""What the builder asks of a model: weights, and the chain of each phase for a combo, platform and mesh."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from aot.chain import Array, Chain
from aot.precompile import Combo


@runtime_checkable
class Model(Protocol):
    """A model as the builder sees it. One of your own is named in the manifest as `factory: "module:callable"`.

    The callable gets the manifest's `arguments` as keywords and returns such an object.
    """

    def abstract_weights(self) -> Mapping[str, Array]:
        """Shape and dtype of every weight, by parameter path, without reading any."""

    def weights(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """Every weight once, in the order of `abstract_weights`, one at a time."""

    def chains(self, combo: Combo, platform: str, mesh: Mapping[str, int]) -> Mapping[str, Chain]:
        """The chain of each phase. Phases of one name have the same inputs and outputs in every combo."""
