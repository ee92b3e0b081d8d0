"""Remarks on image shapes that lie far apart: pictures that a plan serves only much distorted, reduced or enlarged."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from aot.plan import images
from aot.plan.plan import Plan
from aot.vision import Size

_DISTORTED = 2  # ratio of aspect ratios
_SCALED = 4  # ratio of pixels, twice along each side

_FITS = {
    "stretch": f"are distorted by more than {_DISTORTED}x",
    "cover": "lose more than half to the crop",  # 1 - 1 / _DISTORTED
}


def shape_remarks(plan: Plan) -> Iterator[str]:
    """A sentence for aspects that no shape is near to, for each gap between sizes, and where vision stands alone."""
    known, sizes = images.images_of(plan), images.sizes(plan)
    if known is None or not sizes:
        return
    if all(combo.vision_included for combo in plan.combos):
        yield "vision_included: true alone: prompts without images are prefilled with empty embeddings; add false"
    yield from shape_remarks_of(sizes, known.fit)


def shape_remarks_of(sizes: Iterable[Size], fit: str) -> Iterator[str]:
    """The sentences on shapes that pictures are brought to in one of the ways of `vision.FITS`."""
    alike: dict[Fraction, list[Size]] = {}
    for size in sorted(sizes):
        alike.setdefault(Fraction(size.width, size.height), []).append(size)
    yield _far(sorted(alike), fit)
    for aspect, group in sorted(alike.items()):
        yield from _enlarged(aspect, group)
    if fit == "stretch":  # to cover, the most pixels come before the aspect
        yield from _reduced(alike)


def _far(aspects: Sequence[Fraction], fit: str) -> str:
    """The aspects whose ratio to the nearest built one is more than 2."""
    between = [
        f"between {_ratio(lower * _DISTORTED)} and {_ratio(upper / _DISTORTED)}"
        for lower, upper in itertools.pairwise(aspects)
        if upper / lower > _DISTORTED**2
    ]
    narrow, wide = f"narrower than {_ratio(aspects[0] / _DISTORTED)}", f"wider than {_ratio(aspects[-1] * _DISTORTED)}"
    return f"vision shapes: pictures {', '.join([narrow, *between])} or {wide} (width to height) {_FITS[fit]}"


def _enlarged(aspect: Fraction, sizes: Sequence[Size]) -> Iterator[str]:
    """Gaps between sizes of one aspect: a picture is brought to the smallest that loses none of its pixels."""
    for lower, upper in itertools.pairwise(sizes):
        last = (_pixels(upper) - 1) // _SCALED
        if last > _pixels(lower):
            yield (
                f"vision shapes: pictures of {_ratio(aspect)} with {_pixels(lower) + 1} to {last} pixels are enlarged "
                f"to {upper}, more than {_SCALED}x; add {', '.join(map(str, _between(lower, upper)))}"
            )


def _reduced(alike: dict[Fraction, list[Size]]) -> Iterator[str]:
    """Aspects whose largest shape has far fewer pixels than the largest of all."""
    largest = max(map(max, alike.values()), key=_pixels)
    for aspect, sizes in sorted(alike.items()):
        if _SCALED * _pixels(sizes[-1]) < _pixels(largest):
            yield (
                f"vision shapes: pictures of about {_ratio(aspect)} are brought to {sizes[-1]} at most and lose more "
                f"than {_SCALED}x beyond {_SCALED * _pixels(sizes[-1])} pixels, where {largest} keeps "
                f"{_pixels(largest)}; add a larger one"
            )


def _between(lower: Size, upper: Size) -> Iterator[Size]:
    """Sizes that close the gap, with twice the sides of the one before."""
    while _pixels(upper) > _SCALED * (_pixels(lower) + 1):
        lower = Size(2 * lower.height, 2 * lower.width)
        yield lower


def _pixels(size: Size) -> int:
    return size.height * size.width


def _ratio(aspect: Fraction) -> str:
    return f"{aspect.numerator}:{aspect.denominator}"
