"""Recipes against the image processors of transformers."""

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil, Qwen2VLImageProcessorPil

from aot.errors import BundleError, InputError
from aot.runtime.prompting.recipe import Recipe
from aot.vision import Images, Size

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CONVERT, CROP = {"step": "convert", "mode": "RGB"}, {"step": "crop"}
STRETCH = {"step": "resize", "resample": "bicubic", "fit": "stretch"}
COVER = {"step": "resize", "resample": "bicubic", "fit": "cover"}
RESCALE, NORMALIZE = {"step": "rescale", "factor": 1 / 255}, {"step": "normalize", "mean": MEAN, "std": STD}
SIZES = [(1, 1), (3, 170), (200, 1), (31, 32), (56, 84), (97, 64), (333, 500), (640, 480)]


def images(*steps, channels=3):
    return Images(7, (), (), 28, 0, channels, "sequence", steps)


def recipe(*steps):
    return Recipe(images(*steps), "bundle tiny")


def picture(height, width, mode="RGB"):
    """Noise over a gradient: sharp edges and smooth ground."""
    noise = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 4), np.uint8)
    noise[: height // 2] = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None]
    return Image.fromarray(noise, "RGBA").convert(mode)


def pixels_of_qwen(picture, shape, **changes):
    """What Qwen2-VL's own processor gives for a shape, its patches of one pixel put back into rows."""
    area = shape.height * shape.width
    processor = Qwen2VLImageProcessorPil(
        patch_size=1, temporal_patch_size=1, merge_size=1, size={"shortest_edge": area, "longest_edge": area}, **changes
    )
    made = processor(images=[picture], return_tensors="np")
    _, height, width = made["image_grid_thw"][0]
    return Size(int(height), int(width)), made["pixel_values"].reshape(height, width, 3).transpose(2, 0, 1)


def aspects(height, width):
    """Shapes that keep a picture's aspect nearly, as Qwen2-VL's processor does, down and up."""
    return [Size(max(1, height * 3 // 7), max(1, width * 3 // 7)), Size(height, width), Size(height * 2, width * 2)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_stretching_gives_the_pixels_of_qwen2_vl_s_processor(height, width):
    for wanted in aspects(height, width):
        given = picture(height, width)
        shape, expected = pixels_of_qwen(given, wanted)

        pixels = recipe(CONVERT, STRETCH, RESCALE, NORMALIZE).pixels(given, shape, "image 0")

        assert pixels.dtype == np.float32
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("side", [28, 56, 97])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_covering_gives_the_pixels_of_clip_s_processor(height, width, side):
    given = picture(height, width)
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})

    pixels = recipe(CONVERT, COVER, CROP, RESCALE, NORMALIZE).pixels(given, Size(side, side), "image 0")

    np.testing.assert_array_equal(pixels, processor(images=[given], return_tensors="np")["pixel_values"][0])


@pytest.mark.parametrize("shape", [Size(28, 84), Size(84, 28), Size(56, 57)])
@pytest.mark.parametrize(("height", "width"), [(31, 32), (56, 84), (97, 64), (3, 170), (333, 500)])
def test_covering_an_oblong_shape_gives_the_middle_of_the_least_size_that_holds_it(height, width, shape):
    given = picture(height, width)
    scale = max(shape.height / height, shape.width / width)
    least = {
        "height": max(shape.height, int(height * scale + 1e-9)),
        "width": max(shape.width, int(width * scale + 1e-9)),
    }
    processor = CLIPImageProcessorPil(size=least, crop_size=shape._asdict())

    pixels = recipe(CONVERT, COVER, CROP, RESCALE, NORMALIZE).pixels(given, shape, "image 0")

    np.testing.assert_array_equal(pixels, processor(images=[given], return_tensors="np")["pixel_values"][0])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr"])
def test_pixels_of_every_mode_become_rgb_as_the_processor_makes_them(mode):
    given = picture(31, 32, mode)
    shape, expected = pixels_of_qwen(given, Size(28, 28))

    pixels = recipe(CONVERT, STRETCH, RESCALE, NORMALIZE).pixels(given, shape, "image 0")

    np.testing.assert_array_equal(pixels, expected)


def test_what_is_transparent_becomes_white():
    given = Image.new("RGBA", (4, 4), (255, 0, 0, 0))

    pixels = recipe(CONVERT, STRETCH).pixels(given, Size(2, 2), "image 0")

    assert pixels.tolist() == np.full((3, 2, 2), 255.0).tolist()


@pytest.mark.parametrize("resample", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_filters_are_pillow_s(resample):
    given = picture(31, 32)

    pixels = recipe(CONVERT, {**STRETCH, "resample": resample}).pixels(given, Size(14, 20), "image 0")

    expected = np.asarray(given.resize((20, 14), Image.Resampling[resample.upper()]))
    np.testing.assert_array_equal(pixels, expected.transpose(2, 0, 1))


@pytest.mark.parametrize("absent", [{"do_rescale": False}, {"do_normalize": False}])
def test_steps_that_are_absent_are_left_out_as_the_processor_does(absent):
    given = picture(31, 32)
    shape, expected = pixels_of_qwen(given, Size(28, 28), **absent)
    steps = [RESCALE] if "do_normalize" in absent else [NORMALIZE]

    pixels = recipe(CONVERT, STRETCH, *steps).pixels(given, shape, "image 0")

    np.testing.assert_array_equal(pixels, expected)


def test_without_a_conversion_other_pictures_than_rgb_are_named():
    with pytest.raises(InputError, match=r"^image 0: has pixels of mode 'L', this bundle takes RGB alone"):
        recipe(STRETCH).pixels(picture(3, 4, "L"), Size(2, 2), "image 0")

    assert recipe(STRETCH).pixels(picture(3, 4), Size(2, 2), "image 0").shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([CONVERT, {"step": "sharpen"}, STRETCH], r"recipe\[1\]: unknown step 'sharpen', known are convert, resize"),
        ([{}], r"recipe\[0\]: unknown step None"),
        ([{"step": ["crop"]}], r"recipe\[0\]: unknown step \['crop'\]"),
        ([CONVERT], "must be some of convert, resize, .* in this order, got .'convert'"),
        ([STRETCH, CONVERT], "in this order"),
        ([STRETCH, STRETCH], "in this order"),
        ([COVER], "a resize that covers must be followed by a crop"),
        ([{**STRETCH, "size": 3}], "resize has the fields resample, fit, got"),
        ([{"step": "resize", "fit": "stretch"}], "resize has the fields resample, fit, got"),
        ([{**STRETCH, "resample": "cubic"}], "resize: resample cannot be 'cubic'"),
        ([{**STRETCH, "resample": ["box"]}], "resize: resample cannot be"),
        ([{**STRETCH, "fit": "pad"}], "resize: fit cannot be 'pad'"),
        ([{**CONVERT, "mode": "L"}, STRETCH], "convert: mode cannot be 'L'"),
        ([STRETCH, {**RESCALE, "factor": 0}], "rescale: factor cannot be 0"),
        ([STRETCH, {**RESCALE, "factor": float("nan")}], "rescale: factor cannot be nan"),
        ([STRETCH, {**RESCALE, "factor": True}], "rescale: factor cannot be True"),
        ([STRETCH, {**NORMALIZE, "mean": (0.5,)}], "normalize: mean cannot be"),
        ([STRETCH, {**NORMALIZE, "mean": 0.5}], "normalize: mean cannot be 0.5"),
        ([STRETCH, {**NORMALIZE, "std": (0.5, 0.5, 0)}], "normalize: std cannot be"),
    ],
)
def test_a_recipe_that_is_not_known_is_a_fault_of_the_bundle(steps, words):
    with pytest.raises(BundleError, match=words) as caught:
        recipe(*steps)

    assert str(caught.value).startswith("bundle tiny: images.recipe")
    assert "\n" not in str(caught.value)


def test_other_channels_than_those_of_rgb_are_a_fault_of_the_bundle():
    with pytest.raises(BundleError, match=r"images\.channels: must be 3, got 4"):
        Recipe(images(CONVERT, STRETCH, channels=4), "bundle tiny")
