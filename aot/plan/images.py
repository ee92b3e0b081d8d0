"""Which image shapes fit which prefill lengths: a prompt has the tokens of one image, those around it, and a text."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aot import vision
from aot.plan.plan import Plan
from aot.precompile import Combo
from aot.vision import Images, Size

_TEXT = 1  # tokens of text that a prompt has at least

Faults = Iterator[tuple[str, str]]


class Pair(NamedTuple):
    """An image shape and a prefill length."""

    size: Size
    length: int


@dataclass(frozen=True)
class Fitted:
    """The combos that can serve a request, a remark on those that cannot, and what is wrong with the lists."""

    combos: tuple[Combo, ...]
    dropped: tuple[str, ...] = ()
    faults: tuple[tuple[str, str], ...] = ()


def images_of(plan: Plan) -> Images | None:
    """What the model of a plan makes of images; None where it takes none, or is a factory's."""
    from aot.models.families import family

    if plan.model.config is None:
        return None
    encoder = family.read_model_config(plan.model.config, plan.model.preprocessor).encoder
    return None if encoder is None else encoder.images


def sizes(plan: Plan) -> tuple[Size, ...]:
    """The image shapes of a plan, in its order."""
    return tuple(dict.fromkeys(size for combo in plan.combos if (size := vision.image_shape(combo))))


def around(images: Images, size: Size) -> int:
    """The prompt tokens that an image takes with those around it."""
    return images.tokens(size) + len(images.before) + len(images.after)


def malformed(combos: Sequence[Combo], images: Images) -> Faults:
    """A fault for each vision dimension with values that the model does not take."""
    for name in ("vision_height", "vision_width"):
        given = dict.fromkeys(getattr(combo, name) for combo in combos if combo.vision_included)
        if wrong := [side for side in given if side is not None and side % images.unit]:
            near = ", ".join(str(images.nearest(Size(side, side)).height) for side in wrong)
            found = ", ".join(map(str, wrong))
            yield name, f"must be a multiple of {images.unit}, the model's, got {found}; the nearest: {near}"
    channels = [c.vision_channels for c in combos if c.vision_included and c.vision_channels != images.channels]
    if channels:
        yield "vision_channels", f"must be {images.channels}, the model's, got {channels[0]}; leave it out"


def fitted(combos: Sequence[Combo], how: str, images: Images) -> Fitted:
    """The combos whose prefill holds one image with a token of text.

    Of a product the others are dropped, in a line that says which and why, unless an image shape or a prefill length
    would go with them; the rows of a zip are each as they were meant, so there they are faults.
    """
    misfits = dict.fromkeys(pair for pair in map(_pair, combos) if pair and _needed(images, pair.size) > pair.length)
    if not misfits:
        return Fitted(tuple(combos))
    if how == "zip":
        return Fitted(tuple(combos), faults=tuple(("prefill_length", _misfit(images, pair)) for pair in misfits))
    kept = tuple(combo for combo in combos if _pair(combo) not in misfits)
    if faults := tuple(_lost(combos, kept, images)):
        return Fitted(tuple(combos), faults=faults)
    return Fitted(kept, (_dropped(list(misfits), len(combos) - len(kept), len(combos), images),))


def _pair(combo: Combo) -> Pair | None:
    size = vision.image_shape(combo)
    return None if size is None or combo.prefill_length is None else Pair(size, combo.prefill_length)


def _needed(images: Images, size: Size) -> int:
    return around(images, size) + _TEXT


def _lost(combos: Sequence[Combo], kept: Sequence[Combo], images: Images) -> Faults:
    """Image shapes and prefill lengths of which no combo is left."""
    pairs = [pair for pair in map(_pair, combos) if pair]
    longest = max(pair.length for pair in pairs)
    sizes, lengths = {vision.image_shape(combo) for combo in kept}, {combo.prefill_length for combo in kept}
    for size in dict.fromkeys(pair.size for pair in pairs if pair.size not in sizes):
        yield "vision_height", _misfit(images, Pair(size, longest), "every prefill_length, at most ")
    smallest = min((pair.size for pair in pairs), key=lambda size: _needed(images, size))
    for length in sorted({pair.length for pair in pairs if pair.length < longest} - lengths):
        yield "prefill_length", _misfit(images, Pair(smallest, length)) + "; or remove it"


def _misfit(images: Images, pair: Pair, which: str = "prefill_length ") -> str:
    taken, needed, small = around(images, pair.size), _needed(images, pair.size), _shrunk(images, pair)
    return (
        f"an image of {pair.size} takes {taken} tokens and text at least {_TEXT}, more than {which}{pair.length}; "
        f"the nearest that work: prefill_length {needed}" + (f", an image of {small}" if small else "")
    )


def _shrunk(images: Images, pair: Pair) -> Size | None:
    """The largest image of about the same aspect that a prefill length holds."""
    rows, columns = images.grid(pair.size)
    squares = pair.length - _needed(images, pair.size) + rows * columns
    if squares < 1:
        return None
    fewer = min(squares, max(1, math.isqrt(squares * rows // columns)))
    return Size(fewer * images.unit, min(columns, squares // fewer) * images.unit)


def _dropped(misfits: Sequence[Pair], number: int, of: int, images: Images) -> str:
    lengths: dict[Size, list[int]] = {}
    for pair in misfits:
        lengths.setdefault(pair.size, []).append(pair.length)
    each = (
        f"{size} and a token of text take {_needed(images, size)} tokens, more than {', '.join(map(str, short))}"
        for size, short in lengths.items()
    )
    return f"dropped {number} of {of} combos, whose prefill_length does not hold an image: {'; '.join(each)}"
