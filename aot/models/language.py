"""A language model as the builder sees it: a decoder family with the phases of generation."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aot.chain import Array, Chain
from aot.models import axes, names, quantize
from aot.models.config import DecoderConfig
from aot.models.decoder import Decoder
from aot.partition import Dimensions
from aot.precompile import Combo
from aot.programs.generation import Options, Phases, Sizes

Tensors = Callable[[], Iterator[tuple[str, np.ndarray[Any, Any]]]]


@dataclass(frozen=True)
class LanguageModel:
    """Prefill and decode for each combo, and a fork from each prefill that has no more rows."""

    config: DecoderConfig
    dtype: str
    options: Options
    combos: tuple[Combo, ...]
    """All combos of the plan: forks lead from one to another."""
    tensors: Tensors
    """Streams the parameters by path: in the model's dtype, or in float32 where they are to be quantized."""
    quantization: str | None = None

    def abstract_weights(self) -> dict[str, Array]:
        return names.weights(self.config, self.dtype, self.quantization)

    def weights(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        return quantize.stored(self.tensors(), self.abstract_weights())

    def chains(self, combo: Combo, platform: str, mesh: Mapping[str, int]) -> dict[str, Chain]:
        phases = Phases(Decoder(self.config, self.dtype, platform, self.quantization, bool(mesh)), self.options)
        sizes = _sizes(combo)
        forks = {
            f"fork/{rows}": phases.fork(Sizes(rows, sizes.width, sizes.capacity), sizes)
            for rows in sorted(self._sources(combo))
        }
        return {"prefill": phases.prefill(sizes), "decode": phases.decode(sizes), **forks}

    def dimensions(self, combo: Combo) -> Dimensions:
        return axes.of(self.config)

    def _sources(self, combo: Combo) -> set[int]:
        """Batch sizes whose prefill leaves a state that rows of this combo can continue."""
        alike = (c for c in self.combos if (c.max_length, c.required_props) == (combo.max_length, combo.required_props))
        return {c.batch_size for c in alike if c.batch_size <= combo.batch_size}


def _sizes(combo: Combo) -> Sizes:
    assert combo.prefill_length is not None, combo
    assert combo.max_length is not None, combo
    return Sizes(combo.batch_size, combo.prefill_length, combo.max_length)
