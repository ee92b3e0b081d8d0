"""Images of prompts to what a prefill takes: their embeddings at the places of their tokens, and rotary positions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from aot import vision
from aot.precompile import Combo
from aot.runtime.device.client import Buffer, numpy_dtype
from aot.runtime.execute import Executor
from aot.runtime.fitting.entries import Entry
from aot.runtime.prompting import rotary
from aot.runtime.requests import Image, Prepared
from aot.runtime.values import HostArray
from aot.vision import Images, Size


@dataclass(frozen=True)
class Encoding:
    """Encodes the images of one call, each once."""

    executor: Executor
    entries: Mapping[tuple[Combo, str], Entry]
    combos: Sequence[Combo]
    """Combos with vision that the call may use."""

    @cached_property
    def _made(self) -> dict[int, HostArray]:
        """The embeddings [tokens, hidden] of images, by identity."""
        return {}

    def inputs(self, entry: Entry, asked: Sequence[Prepared]) -> dict[str, Any]:
        """What a prefill with vision takes beside tokens and lengths, for prompts in its first rows."""
        self._encode([image for prepared in asked for image in prepared.images])
        taken = {"embeddings": self._embeddings(entry, asked)}
        return taken | ({"positions": self._positions(entry, asked)} if "positions" in entry.inputs else {})

    def _embeddings(self, entry: Entry, asked: Sequence[Prepared]) -> Buffer:
        wanted = entry.inputs["embeddings"]
        if not any(prepared.images for prepared in asked):
            return self.executor.blank(wanted)
        made = np.zeros(wanted.shape, numpy_dtype(wanted.dtype))
        for row, prepared in enumerate(asked):
            if prepared.images:
                places = np.flatnonzero(np.asarray(prepared.ids) == self._images.token)
                made[row, places] = np.concatenate([self._made[id(image)] for image in prepared.images])
        return made

    def _positions(self, entry: Entry, asked: Sequence[Prepared]) -> HostArray:
        made = np.zeros(entry.inputs["positions"].shape, np.int32)
        for row, prepared in enumerate(asked):
            grids = [self._images.grid(image.size) for image in prepared.images]
            made[row, :, : len(prepared.ids)], _ = rotary.rotary_positions(prepared.ids, grids, self._images.token)
        return made

    def _encode(self, images: Iterable[Image]) -> None:
        """Encodes those that are not yet, all of one size together, however many prompts they are of."""
        by_size: dict[Size, dict[int, Image]] = {}
        for image in images:
            if id(image) not in self._made:
                by_size.setdefault(image.size, {})[id(image)] = image
        for size, fresh in by_size.items():
            waiting = list(fresh.values())
            for combo in vision.encode_batches(self.combos, size, len(waiting)):
                entry = self.entries[combo, "encode"]
                part, waiting = waiting[: combo.vision_batch_size], waiting[combo.vision_batch_size or 1 :]
                self._call(entry, part)

    def _call(self, entry: Entry, images: Sequence[Image]) -> None:
        pixels = np.zeros(entry.inputs["pixels"].shape, np.float32)
        for place, image in enumerate(images):
            pixels[place] = image.pixels
        outputs, _ = self.executor.run(entry, {"pixels": pixels})
        self._made.update(zip(map(id, images), outputs["embeddings"], strict=False))

    @cached_property
    def _images(self) -> Images:
        images = next(iter(self.entries.values())).index.images
        assert images is not None  # combos with vision are built for models that have them
        return images
