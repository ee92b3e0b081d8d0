"""The phase `encode`: images to embeddings, as a chain whose block is one program for all layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from aot import chain
from aot.chain import Array, Axes, Call, Chain
from aot.slots import INPUT, OUTPUT, VALUE, WEIGHT
from aot.vision import Size

if TYPE_CHECKING:
    import jax

PIXELS: Axes = ("vision_batch_size", "vision_channels", "vision_height", "vision_width")
_LAYERS = "vision/layers"


class Encoder(Protocol):
    """The parts of an encoder of images as pure functions of their weights, for one platform. Compares by value."""

    @property
    def depth(self) -> int:
        """Layers that are run."""

    @property
    def patch_weights(self) -> tuple[str, ...]: ...
    @property
    def project_weights(self) -> tuple[str, ...]: ...
    def weights(self) -> Mapping[str, Array]:
        """All weights by path; those of a layer below `vision/layers/<n>/`."""

    def values(self, images: int, size: Size) -> Mapping[str, Array]:
        """What `patch` gives and each block takes: `x` [images, patches, width] and what else depends on the size."""

    def patch(self, weights: Mapping[str, Any], pixels: Any) -> Mapping[str, Any]:
        """Pixels [images, channels, height, width] in float32 to the values."""

    @property
    def block(self) -> Callable[..., Any]:
        """`block(weights, x, …)`: one layer, by its weights' paths below `vision/layers/<n>/`: x after it."""

    def project(self, weights: Mapping[str, Any], x: "jax.Array") -> "jax.Array":
        """X to embeddings [images, tokens, hidden] in the model's dtype."""


def encode_phase(encoder: Encoder, images: int, channels: int, size: Size) -> Chain:
    """The chain that encodes so many images of a size at once."""
    values = dict(encoder.values(images, size))
    blocks = (_block(encoder, values, layer) for layer in range(encoder.depth))
    patch = _patch(encoder, Array((images, channels, *size), "float32"), values)
    calls = (patch, *blocks, _project(encoder, values["x"]))
    return Chain(calls, {"pixels": PIXELS}, {"embeddings": (PIXELS[0], None, None)})


def _patch(encoder: Encoder, pixels: Array, values: Mapping[str, Array]) -> Call:
    weights = {path: encoder.weights()[path] for path in encoder.patch_weights}
    program = chain.program("patch", PatchStep(encoder), {"pixels": pixels, **weights})
    takes = {"pixels": INPUT.slot("pixels"), **{path: WEIGHT.slot(path) for path in weights}}
    return chain.call(program, takes, {name: _value(name) for name in values})


def _block(encoder: Encoder, values: Mapping[str, Array], layer: int) -> Call:
    prefix = f"{_LAYERS}/{layer}/"
    weights = {p.removeprefix(prefix): a for p, a in encoder.weights().items() if p.startswith(prefix)}
    program = chain.program("encode", Layer(encoder, tuple(values)), {**values, **weights}, {"x"})
    takes = {**{name: _value(name) for name in values}, **{path: WEIGHT.slot(f"{prefix}{path}") for path in weights}}
    return chain.call(program, takes, {"x": _value("x")})


def _project(encoder: Encoder, x: Array) -> Call:
    weights = {path: encoder.weights()[path] for path in encoder.project_weights}
    program = chain.program("project", Project(encoder), {"x": x, **weights})
    takes = {"x": _value("x"), **{path: WEIGHT.slot(path) for path in weights}}
    return chain.call(program, takes, {"embeddings": OUTPUT.slot("embeddings")})


def _value(name: str) -> str:
    return VALUE.slot(f"vision/{name}")


@dataclass(frozen=True)
class PatchStep:
    """Pixels to what the blocks take."""

    encoder: Encoder

    def __call__(self, pixels: Any, **weights: Any) -> dict[str, Any]:
        return dict(self.encoder.patch(weights, pixels))


@dataclass(frozen=True)
class Layer:
    """One layer over x [images, patches, width]."""

    encoder: Encoder
    values: tuple[str, ...]

    def __call__(self, x: Any, **arrays: Any) -> dict[str, Any]:
        values = {name: arrays.pop(name) for name in self.values if name != "x"}
        return {"x": self.encoder.block(arrays, x, **values)}


@dataclass(frozen=True)
class Project:
    """X to embeddings."""

    encoder: Encoder

    def __call__(self, x: Any, **weights: Any) -> dict[str, Any]:
        return {"embeddings": self.encoder.project(weights, x)}
