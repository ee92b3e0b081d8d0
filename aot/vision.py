"""What a family says of images, and which of the built shapes an image gets: plain data, no jax.

An image becomes *embeddings*, one for each square of `unit` pixels and `extra` ones beside them. In a row of tokens
each embedding takes the place of one image token. A bundle encodes images of the shapes that it was built for, so an
image is first brought to one of these: which one, `choose_size` says, and planner and runtime both ask it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aot.precompile import Combo

if TYPE_CHECKING:
    from fractions import Fraction

StepValue = str | int | float | bool | None | tuple[int | float, ...]
"""A value of a step from a picture to pixels."""

FITS = ("stretch", "cover")
"""How a picture is brought to a shape: by stretching, or covering it and cutting off what lies beyond."""
ROTARY = ("sequence", "grid")
"""Rotary positions of image tokens: one after the other, or by row and column."""


class Size(NamedTuple):
    """Pixels of an image, or of a shape that images are brought to."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height}"


@dataclass(frozen=True)
class Images:
    """What a model makes of images. The index of a bundle holds it."""

    token: int
    """The id whose embeddings are an image's."""
    before: tuple[int, ...]
    after: tuple[int, ...]
    """Ids around an image in a prompt that no chat template has rendered."""
    unit: int
    """Pixels along each side of the square that becomes one embedding; sizes are multiples of it."""
    extra: int
    """Embeddings of an image beside those of its squares."""
    channels: int
    rotary: str
    """One of ROTARY."""
    recipe: tuple[Mapping[str, StepValue], ...]
    """Steps from a picture to pixels [channels, height, width], in order; `aot.runtime.prompting.recipe` knows them."""

    def grid(self, size: Size) -> tuple[int, int]:
        """Rows and columns of the squares of an image."""
        return size.height // self.unit, size.width // self.unit

    def tokens(self, size: Size) -> int:
        """The number of embeddings of an image."""
        rows, columns = self.grid(size)
        return rows * columns + self.extra

    def nearest(self, size: Size) -> Size:
        """The size that the model can take and that is nearest to one, itself where it can."""
        sides = (max(1, (side + self.unit // 2) // self.unit) * self.unit for side in size)
        return Size(*sides)

    @property
    def fit(self) -> str:
        """One of FITS."""
        return next(str(step["fit"]) for step in self.recipe if step["step"] == "resize")


def image_shape(combo: Combo) -> Size | None:
    """The image shape of a combo; None where vision is off."""
    if combo.vision_height is None or combo.vision_width is None:
        return None
    return Size(combo.vision_height, combo.vision_width)


def encode_batches(combos: Iterable[Combo], size: Size, images: int) -> tuple[Combo, ...]:
    """The combos whose `encode` takes so many images of a size: the fewest calls, of these the least padded.

    Every call but the last is full. Combos of one shape differ in other dimensions alone, so the first stands for all.
    """
    by_room: dict[int, Combo] = {}
    for combo in combos:
        if image_shape(combo) == size:
            by_room.setdefault(combo.vision_batch_size or 1, combo)
    best: list[tuple[int, int, tuple[int, ...]]] = [(0, 0, ())]  # by images: calls, room in all, room of each call
    for count in range(1, images + 1):
        ways = ((room, best[max(0, count - room)]) for room in by_room)
        best.append(min((calls + 1, total + room, (*rooms, room)) for room, (calls, total, rooms) in ways))
    return tuple(by_room[room] for room in sorted(best[images][2], reverse=True))


def choose_size(sizes: Iterable[Size], picture: Size, fit: str) -> Size:
    """The shape for a picture: least aspect distortion, then fewest lost pixels, then the smaller, then sorted.

    Distortion is the ratio of the aspect ratios, which `cover` leaves at 1. Lost are pixels of the picture beyond
    those of the shape, and with `cover` those that are cut off. Exact, so that it is the same on every machine.
    """
    return min(sizes, key=lambda size: (*_loss(size, picture, fit), size.height * size.width, size))


def _loss(size: Size, picture: Size, fit: str) -> "tuple[Fraction, Fraction]":
    """Aspect distortion, at least 1, and lost pixels of a picture that is brought to a size."""
    from fractions import Fraction  # not at every cold start

    wider = Fraction(size.width * picture.height, size.height * picture.width)  # the shape than the picture
    narrow = min(wider, 1 / wider)
    pixels, left = picture.height * picture.width, Fraction(size.height * size.width)
    if fit == "cover":
        return Fraction(1), pixels - min(pixels * narrow, left)
    return 1 / narrow, max(pixels - left, Fraction(0))
