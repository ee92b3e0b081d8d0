"""A language model as the builder sees it: a decoder family with the phases of generation, and an encoder of images."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from aot import vision
from aot.chain import Array, Chain
from aot.models import encoders
from aot.models.checkpoints import quantize
from aot.models.families import axes
from aot.models.families.family import ModelConfig
from aot.models.layers.decoder import FamilyDecoder
from aot.partition import Dimensions
from aot.precompile import Combo
from aot.programs import encode
from aot.programs.calls import GenerationOptions, Sizes
from aot.programs.phases import Phases

Tensors = Callable[[], Iterator[tuple[str, np.ndarray[Any, Any]]]]


@dataclass(frozen=True)
class LanguageModel:
    """Prefill and decode for each combo, and a fork from each prefill that has no more rows."""

    config: ModelConfig
    dtype: str
    options: GenerationOptions
    combos: tuple[Combo, ...]
    """All combos of the plan: forks lead from one to another."""
    tensors: Tensors
    """Streams the parameters by path: in the model's dtype, or in float32 where they are to be quantized."""
    quantization: str | None = None

    def abstract_weights(self) -> dict[str, Array]:
        return self.config.weights(self.dtype, self.quantization)

    def weights(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        return quantize.stored_tensors(self.tensors(), self.abstract_weights(), self.config.decoder.head_dim)

    def chains(self, combo: Combo, platform: str, mesh: Mapping[str, int]) -> dict[str, Chain]:
        config = self.config
        decoder = FamilyDecoder(config.decoder, self.dtype, platform, self.quantization, bool(mesh))
        seen = config.encoder.images if config.encoder is not None and combo.vision_included else None
        phases = Phases(decoder, self.options, None if seen is None else seen.token)
        sizes = _sizes(combo)
        resting = Sizes(sizes.batch, 0, sizes.capacity)
        forks = {
            f"fork/{rows}": _fork(phases, Sizes(rows, 0, sizes.capacity), resting)
            for rows in sorted(self._sources(combo))
        }
        generation = {"prefill": phases.prefill(sizes), "decode": _decode(phases, resting), **forks}
        return self._encode(combo, platform) | generation

    def _encode(self, combo: Combo, platform: str) -> dict[str, Chain]:
        if (size := vision.image_shape(combo)) is None:
            return {}
        assert self.config.encoder is not None, combo
        assert combo.vision_batch_size is not None, combo
        encoder, images = self.config.encoder, combo.vision_batch_size
        part = encoders.make_encoder(encoder, self.dtype, platform)
        return {"encode": encode.encode_phase(part, images, encoder.images.channels, size)}

    def dimensions(self, combo: Combo) -> Dimensions:
        return axes.axes_of(self.config.decoder)

    def _sources(self, combo: Combo) -> set[int]:
        """Batch sizes whose prefill leaves a state that rows of this combo can continue."""
        alike = filter(combo.shares_state, self.combos)
        return {c.batch_size for c in alike if c.batch_size <= combo.batch_size}


@cache
def _decode(phases: Phases, sizes: Sizes) -> Chain:
    """Made once for all combos that differ in the width of a prefill alone."""
    return phases.decode(sizes)


@cache
def _fork(phases: Phases, source: Sizes, sizes: Sizes) -> Chain:
    """The chain of a fork, of which a plan may have thousands."""
    return phases.fork(source, sizes)


def _sizes(combo: Combo) -> Sizes:
    assert combo.prefill_length is not None, combo
    assert combo.max_length is not None, combo
    return Sizes(combo.batch_size, combo.prefill_length, combo.max_length)
