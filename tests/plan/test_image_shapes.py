from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aot.vision import FITS, Size, choose_size

SIDE = st.integers(1, 10_000)
PICTURE = st.builds(Size, SIDE, SIDE)
SHAPES = st.lists(st.builds(lambda h, w: Size(28 * h, 28 * w), st.integers(1, 40), st.integers(1, 40)), min_size=1)
FIT = st.sampled_from(FITS)


def distortion(shape, picture):
    ratio = Fraction(shape.width, shape.height) / Fraction(picture.width, picture.height)
    return max(ratio, 1 / ratio)


def lost_by_covering(shape, picture):
    """Pixels of the picture that are cut off, and of those left the ones for which the shape has none."""
    scale = max(Fraction(shape.height, picture.height), Fraction(shape.width, picture.width))
    left = (shape.height / scale) * (shape.width / scale)
    return picture.height * picture.width - left + max(0, left - shape.height * shape.width)


@given(SHAPES, PICTURE, FIT, st.randoms())
def test_the_shape_does_not_depend_on_the_order_or_the_number_of_the_others(shapes, picture, fit, random):
    shuffled = random.sample([*shapes, *shapes], 2 * len(shapes))

    assert choose_size(shuffled, picture, fit) == choose_size(shapes, picture, fit)


@given(SHAPES, PICTURE, FIT)
def test_a_picture_of_a_built_size_stays_as_it_is(shapes, picture, fit):
    assert choose_size([*shapes, picture], picture, fit) == picture


@given(SHAPES, PICTURE)
def test_stretching_distorts_as_little_as_any_shape_can(shapes, picture):
    chosen = choose_size(shapes, picture, "stretch")

    assert distortion(chosen, picture) == min(distortion(shape, picture) for shape in shapes)


@given(SHAPES, PICTURE)
def test_covering_loses_as_few_pixels_as_any_shape_can(shapes, picture):
    chosen = choose_size(shapes, picture, "cover")

    assert lost_by_covering(chosen, picture) == min(lost_by_covering(shape, picture) for shape in shapes)


@given(PICTURE, FIT, st.lists(st.integers(1, 9), min_size=1))
def test_enlarging_loses_nothing_so_the_least_of_the_larger_shapes_wins(picture, fit, factors):
    larger = [Size(picture.height * factor, picture.width * factor) for factor in factors]

    assert choose_size(larger, picture, fit) == min(larger)


@given(PICTURE, FIT, st.lists(st.integers(1, 9), min_size=1))
def test_of_smaller_shapes_the_largest_wins(picture, fit, factors):
    whole = Size(picture.height * 2520, picture.width * 2520)  # what 1 to 9 divide
    smaller = [Size(whole.height // factor, whole.width // factor) for factor in factors]

    assert choose_size(smaller, whole, fit) == max(smaller)


@pytest.mark.parametrize(
    ("fit", "picture", "chosen"),
    [
        ("stretch", Size(480, 640), Size(336, 448)),
        ("stretch", Size(640, 480), Size(448, 336)),
        ("stretch", Size(100, 101), Size(224, 224)),  # both squares lose nothing: the smaller
        ("stretch", Size(300, 301), Size(448, 448)),  # one of them loses pixels
        ("stretch", Size(1, 200), Size(336, 448)),  # a strip: the widest there is
        ("cover", Size(448, 224), Size(448, 336)),  # as little of the strip is cut off as in any
        ("cover", Size(224, 224), Size(224, 224)),
        ("cover", Size(2000, 1000), Size(448, 448)),  # too large for all: the most pixels are left in the largest
    ],
)
def test_shapes_of_some_pictures(fit, picture, chosen):
    shapes = [Size(224, 224), Size(448, 448), Size(336, 448), Size(448, 336)]

    assert choose_size(shapes, picture, fit) == chosen


def test_equal_shapes_are_told_apart_by_their_sides():
    assert choose_size([Size(448, 224), Size(224, 448)], Size(100, 100), "stretch") == Size(224, 448)
