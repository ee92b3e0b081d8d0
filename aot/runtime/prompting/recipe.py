"""The recipe that a family records for its images, carried out: from a picture to pixels, as its own processor would.

Steps come in this order, each at most once; `resize` always:

convert    mode: RGB. What is transparent becomes white.
resize     resample: a filter of Pillow; fit: stretch | cover
crop       the middle of the picture; follows a `resize` that covers
rescale    factor
normalize  mean, std: for each channel
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aot.errors import BundleError, InputError
from aot.vision import FITS, Images, Size

if TYPE_CHECKING:
    from PIL.Image import Image

_FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
_CHANNELS = 3  # of RGB


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_color(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == _CHANNELS and all(map(_is_number, value))


_STEPS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "convert": {"mode": lambda value: value == "RGB"},
    "resize": {"resample": lambda value: value in _FILTERS, "fit": lambda value: value in FITS},
    "crop": {},
    "rescale": {"factor": lambda value: _is_number(value) and value > 0},
    "normalize": {"mean": _is_color, "std": lambda value: _is_color(value) and min(value) > 0},
}
"""The fields of each step, and what tells their values."""


class Recipe:
    """How a bundle makes pixels of pictures. Raises BundleError for a step that is not known; `where` begins it."""

    def __init__(self, images: Images, where: str) -> None:
        for place, step in enumerate(images.recipe):
            _check(step, f"{where}: images.recipe[{place}]")
        names = [step["step"] for step in images.recipe]
        if names != [name for name in _STEPS if name in names] or "resize" not in names:
            raise BundleError(f"{where}: images.recipe: must be some of {', '.join(_STEPS)} in this order, got {names}")
        self.images = images
        self._steps: dict[str, Mapping[str, Any]] = {str(step["step"]): step for step in images.recipe}
        if self._steps["resize"]["fit"] == "cover" and "crop" not in names:
            raise BundleError(f"{where}: images.recipe: a resize that covers must be followed by a crop, got {names}")
        if images.channels != _CHANNELS:
            raise BundleError(f"{where}: images.channels: must be {_CHANNELS}, got {images.channels}")

    def pixels(self, picture: "Image", size: Size, place: str) -> npt.NDArray[np.float32]:
        """A picture as [channels, height, width] of a size; `place` begins the message of an InputError."""
        if "convert" in self._steps:
            picture = _rgb(picture)
        elif picture.mode != "RGB":
            raise InputError(f"{place}: has pixels of mode {picture.mode!r}, this bundle takes RGB alone; convert it")
        resized = _middle(_resized(picture, size, self._steps["resize"]), size)
        pixels = np.moveaxis(np.asarray(resized), -1, 0).astype(np.float32)
        if rescale := self._steps.get("rescale"):
            pixels = (pixels.astype(np.float64) * rescale["factor"]).astype(np.float32)
        if normalize := self._steps.get("normalize"):
            mean, std = (np.array(normalize[name], np.float32)[:, None, None] for name in ("mean", "std"))
            pixels = (pixels - mean) / std
        return np.ascontiguousarray(pixels)


def _check(step: Mapping[str, Any], place: str) -> None:
    name = step.get("step")
    if not (isinstance(name, str) and name in _STEPS):
        raise BundleError(
            f"{place}: unknown step {name!r}, known are {', '.join(_STEPS)}; load it with a newer version"
        )
    fields = _STEPS[name]
    if step.keys() - {"step"} != fields.keys():
        raise BundleError(f"{place}: {name} has the fields {', '.join(fields) or 'none'}, got {sorted(step)}; rebuild")
    for field, is_allowed in fields.items():
        if not is_allowed(step[field]):
            raise BundleError(f"{place}: {name}: {field} cannot be {step[field]!r:.80}; rebuild")


def _rgb(picture: "Image") -> "Image":
    from PIL import Image

    if "A" not in picture.getbands() and picture.info.get("transparency") is None:
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def _resized(picture: "Image", size: Size, step: Mapping[str, Any]) -> "Image":
    from PIL import Image

    width, height = picture.size
    if step["fit"] == "cover":  # the smallest of the picture's aspect that holds the size
        size = Size(max(size.height, size.width * height // width), max(size.width, size.height * width // height))
    return picture.resize((size.width, size.height), Image.Resampling[step["resample"].upper()])


def _middle(picture: "Image", size: Size) -> "Image":
    """The middle of a picture that is no smaller; all of one that is no larger."""
    left, top = (picture.width - size.width) // 2, (picture.height - size.height) // 2
    return picture.crop((left, top, left + size.width, top + size.height))
