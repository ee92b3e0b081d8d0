"""What the planner does with image shapes."""

import json
import math
import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import pytest
import seeing
from hypothesis import given
from hypothesis import strategies as st
from places import TESTS
from seeing import resolved
from sending import sent

from aot import plan, vision
from aot.errors import ManifestError
from aot.models.families import family
from aot.plan import Plan, images
from aot.plan import shapes as shapes_of
from aot.precompile import Combo
from aot.vision import Size

CONFIG = json.loads((TESTS / "cases/checkpoint/config.json").read_text())
IMAGES = family.read_model_config(seeing.QWEN2_VL, {}).encoder.images
BOTH = "vision_included: [false, true]"
SEES = "vision_included: true"


@pytest.fixture
def sees(tmp_path: Path) -> Path:
    return seeing.write(tmp_path)


def refused(directory: Path, precompile: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        resolved(directory, precompile)
    return [line.replace(f"{directory}/", "") for line in str(caught.value).splitlines()]


def test_the_preprocessor_of_a_model_with_vision_is_in_the_plan(sees: Path) -> None:
    made = resolved(sees, f"prefill_length: 64, {SEES}, vision_height: 28, vision_width: 56")

    assert made.model.preprocessor == {"image_processor_type": "Qwen2VLImageProcessor"}
    assert sent(made) == made
    assert images.images_of(made) == IMAGES


def test_the_preprocessor_may_stand_in_the_configuration_of_the_processor(sees: Path) -> None:
    (sees / "sees/preprocessor_config.json").rename(sees / "sees/other.json")
    whole = {"image_processor": {"image_mean": [0, 0, 0], "_name_or_path": "/home/someone"}, "processor_class": "A"}
    (sees / "sees/processor_config.json").write_text(json.dumps(whole))

    assert resolved(sees, "prefill_length: 64").model.preprocessor == {"image_mean": [0, 0, 0]}


@pytest.mark.parametrize("config", [seeing.QWEN2_VL, seeing.LLAVA])
def test_a_model_that_sees_without_a_preprocessor_is_refused_by_the_name_of_the_file(config, tmp_path: Path) -> None:
    (seeing.write(tmp_path, config) / "sees/preprocessor_config.json").unlink()

    (fault,) = refused(tmp_path, "prefill_length: 64")

    assert fault.startswith("a.yaml:2: model.checkpoint: sees/preprocessor_config.json: missing; ")


def test_the_preprocessor_of_a_model_without_vision_is_left_out(sees: Path) -> None:
    (sees / "sees/config.json").write_text(json.dumps(CONFIG))

    assert resolved(sees, "prefill_length: 64").model.preprocessor is None


def test_vision_of_a_model_without_it_is_refused(sees: Path) -> None:
    (sees / "sees/config.json").write_text(json.dumps(CONFIG))

    (fault,) = refused(sees, f"prefill_length: 64, {SEES}, vision_height: 28, vision_width: 28")

    assert fault.startswith("a.yaml:3: precompile.vision_included: true, and the model takes no images")


def test_sizes_off_the_grid_are_refused_with_the_nearest_that_are_on_it(sees: Path) -> None:
    precompile = f"expand: zip, prefill_length: 64, {SEES}, vision_height: [30, 28, 1], vision_width: [42, 28, 71]"

    assert refused(sees, precompile) == [
        "a.yaml:3: precompile.vision_height: must be a multiple of 28, the model's, got 30, 1; the nearest: 28, 28",
        "a.yaml:3: precompile.vision_width: must be a multiple of 28, the model's, got 42, 71; the nearest: 56, 84",
    ]


def test_vision_needs_the_sizes_of_images(sees: Path) -> None:
    assert refused(sees, f"prefill_length: 64, {SEES}, vision_height: 28") == [
        "a.yaml:3: precompile.vision_width: is missing, where vision_included is true; give the sizes of images"
    ]


def test_channels_are_the_models(sees: Path) -> None:
    shape = "vision_height: 28, vision_width: 28"

    (combo,) = resolved(sees, f"prefill_length: 64, {SEES}, {shape}").combos
    faults = refused(sees, f"prefill_length: 64, {SEES}, {shape}, vision_channels: 4")

    assert (combo.vision_channels, combo.vision_batch_size) == (3, 1)
    assert faults == ["a.yaml:3: precompile.vision_channels: must be 3, the model's, got 4; leave it out"]


def test_an_image_and_a_token_of_text_must_fit_the_prefill(sees: Path) -> None:
    shape = "vision_height: 112, vision_width: 112"  # 16 squares, and one token on either side

    assert resolved(sees, f"prefill_length: 19, {SEES}, {shape}").combos[0].prefill_length == 19
    assert refused(sees, f"prefill_length: 18, {SEES}, {shape}") == [
        "a.yaml:3: precompile.vision_height: an image of 112 x 112 takes 18 tokens and text at least 1, more than "
        "every prefill_length, at most 18; the nearest that work: prefill_length 19, an image of 112 x 84"
    ]


def test_rows_of_a_zip_that_do_not_fit_are_refused_each(sees: Path) -> None:
    precompile = f"expand: zip, prefill_length: [19, 18, 2], {SEES}, vision_height: [112, 56, 112], vision_width: 112"

    assert refused(sees, precompile) == [
        "a.yaml:3: precompile.prefill_length: an image of 112 x 112 takes 18 tokens and text at least 1, more than "
        "prefill_length 2; the nearest that work: prefill_length 19"
    ]


def test_a_product_drops_the_pairs_that_do_not_fit_in_a_line_and_keeps_the_keys_of_the_others(sees: Path) -> None:
    lists = "expand: product, batch_size: [1, 2], prefill_length: [8, 19, 64], vision_height: [56, 112, 168]"

    made = resolved(sees, f"{lists}, vision_width: [56, 112, 168], {BOTH}")

    kept = {(c.prefill_length, c.vision_height) for c in made.combos}
    alone = Combo(batch_size=2, prefill_length=19, max_length=83, vision_included=True, vision_batch_size=1)
    assert kept == {(n, None) for n in (8, 19, 64)} | {(8, 56), (19, 56), (64, 56), (19, 112), (64, 112), (64, 168)}
    assert alone.replace(vision_channels=3, vision_height=112, vision_width=112).key in {c.key for c in made.combos}
    assert made.dropped == (
        "precompile: dropped 6 of 24 combos, whose prefill_length does not hold an image: "
        "112 x 112 and a token of text take 19 tokens, more than 8; "
        "168 x 168 and a token of text take 39 tokens, more than 8, 19",
    )


def test_a_shape_of_which_nothing_would_be_left_is_refused(sees: Path) -> None:
    lists = "expand: product, prefill_length: [8, 19], vision_height: [56, 168], vision_width: 168"

    faults = refused(sees, f"{lists}, {BOTH}")

    assert [fault.split(": ")[1] for fault in faults] == ["precompile.vision_height"]
    assert faults[0].endswith("the nearest that work: prefill_length 39, an image of 112 x 112")


def test_a_prefill_length_is_lost_only_where_no_text_alone_uses_it(sees: Path) -> None:
    lists = "expand: product, prefill_length: [4, 64], vision_height: 56, vision_width: 56"

    mixed = resolved(sees, f"{lists}, {BOTH}")
    (fault,) = refused(sees, f"{lists}, {SEES}")

    assert [(c.prefill_length, c.vision_included) for c in mixed.combos] == [(4, False), (64, False), (64, True)]
    assert "precompile.prefill_length: an image of 56 x 56 takes 6 tokens and text at least 1, more than" in fault


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 400))
def test_the_nearest_that_work_do(rows: int, columns: int, length: int) -> None:
    combo = Combo(prefill_length=length, vision_included=True, vision_height=28 * rows, vision_width=28 * columns)

    fitted = images.fitted([combo], "zip", IMAGES)

    needed = rows * columns + 3
    assert bool(fitted.faults) == (needed > length)
    for _, text in fitted.faults:
        assert f"prefill_length {needed}" in text
        assert not images.fitted([combo.replace(prefill_length=needed)], "zip", IMAGES).faults
        if small := re.search(r"an image of (\d+) x (\d+)$", text):
            shape = {"vision_width": int(small[1]), "vision_height": int(small[2])}
            assert not images.fitted([combo.replace(**shape)], "zip", IMAGES).faults
            assert shape["vision_width"] <= 28 * columns
            assert shape["vision_height"] <= 28 * rows
        else:
            assert length < 4


def test_a_factory_takes_vision_dimensions_as_it_likes(tmp_path: Path) -> None:
    text = (
        "name: a\nmodel: {factory: 'own:make'}\nprecompile: {vision_included: true, vision_height: 5, vision_width: 7"
    )
    (tmp_path / "a.yaml").write_text(text + ", prefill_length: 1, vision_channels: 9}\n")

    (combo,) = plan.resolve(plan.read_manifest(tmp_path / "a.yaml")).combos

    assert vision.image_shape(combo) == Size(5, 7)
    assert combo.vision_channels == 9


def remarks(made: Plan) -> list[str]:
    return [text for text in plan.waste(made) if text.startswith("vision shapes")]


def shapes(sizes: Iterable[tuple[int, int]]) -> str:
    widths, heights = zip(*sizes, strict=True)
    return f"vision_width: {list(widths)}, vision_height: {list(heights)}"


def test_remarks_name_the_aspects_that_no_shape_is_near_to(sees: Path) -> None:
    near = resolved(sees, f"expand: product, prefill_length: 64, {BOTH}, {shapes([(56, 56), (112, 56)])}")
    far = resolved(sees, f"expand: product, prefill_length: 64, {BOTH}, {shapes([(28, 140), (140, 28)])}")

    assert remarks(near) == [
        "vision shapes: pictures narrower than 1:2 or wider than 4:1 (width to height) are distorted by more than 2x"
    ]
    assert remarks(far) == [
        "vision shapes: pictures narrower than 1:10, between 2:5 and 5:2 or wider than 10:1 (width to height) are "
        "distorted by more than 2x"
    ]


def test_remarks_name_what_a_crop_loses(tmp_path: Path) -> None:
    sees = seeing.write(tmp_path, seeing.LLAVA)

    (remark,) = remarks(resolved(sees, f"prefill_length: 64, {SEES}, vision_height: 56, vision_width: 56"))

    assert remark.endswith(
        "pictures narrower than 1:2 or wider than 2:1 (width to height) lose more than half to the crop"
    )


def test_remarks_name_sizes_far_apart_and_those_that_close_the_gap(sees: Path) -> None:
    made = resolved(sees, f"expand: product, prefill_length: 512, {BOTH}, {shapes([(28, 28), (280, 280), (112, 56)])}")

    assert remarks(made)[1:] == [
        "vision shapes: pictures of 1:1 with 785 to 19599 pixels are enlarged to 280 x 280, more than 4x; "
        "add 56 x 56, 112 x 112, 224 x 224",
        "vision shapes: pictures of about 2:1 are brought to 112 x 56 at most and lose more than 4x beyond 25088 "
        "pixels, where 280 x 280 keeps 78400; add a larger one",
    ]


SIDES = st.integers(1, 12).map((28).__mul__)
SIZES = st.lists(st.builds(Size, SIDES, SIDES), min_size=1, max_size=5, unique=True)


def told(sizes: list[Size], pattern: str) -> list[tuple[str, ...]]:
    text = "\n".join(shapes_of.shape_remarks_of(sizes, "stretch"))
    return re.findall(pattern, text)


@given(SIZES, st.builds(Size, st.integers(1, 2000), st.integers(1, 2000)))
def test_aspects_in_remarks_are_those_that_the_runtime_distorts(sizes: list[Size], picture: Size) -> None:
    ((narrow, wide),) = told(sizes, r"narrower than (\S+?),? .*wider than (\S+)")
    gaps = told(sizes, r"between (\S+) and (\S+?),? ")
    aspect = Fraction(picture.width, picture.height)

    chosen = vision.choose_size(sizes, picture, "stretch")

    ratio = aspect / Fraction(chosen.width, chosen.height)
    within = any(ratio_of(low) < aspect < ratio_of(high) for low, high in gaps)
    assert (max(ratio, 1 / ratio) > 2) == (aspect < ratio_of(narrow) or aspect > ratio_of(wide) or within)


@given(SIZES, st.data())
def test_pixels_in_remarks_are_those_that_the_runtime_enlarges(sizes: list[Size], data: st.DataObject) -> None:
    gaps = told(sizes, r"pictures of (\S+) with (\d+) to (\d+) pixels")
    like = data.draw(st.sampled_from(sizes))
    aspect = Fraction(like.width, like.height)
    times = data.draw(st.integers(1, 400))
    picture = Size(aspect.denominator * times, aspect.numerator * times)

    chosen = vision.choose_size(sizes, picture, data.draw(st.sampled_from(vision.FITS)))

    pixels = math.prod(picture)
    smaller = any(Fraction(size.width, size.height) == aspect and math.prod(size) < pixels for size in sizes)
    gap = any(ratio_of(of) == aspect and int(least) <= pixels <= int(most) for of, least, most in gaps)
    # To cover, a shape of another aspect may lose fewer pixels: what it crops is another remark.
    alike = Fraction(chosen.width, chosen.height) == aspect
    assert (smaller and alike and math.prod(chosen) > 4 * pixels) == gap


def ratio_of(text: str) -> Fraction:
    return Fraction(*map(int, text.split(":")))


def test_prompts_without_images_that_only_vision_serves_are_remarked_on(sees: Path) -> None:
    lists = "prefill_length: 64, vision_height: 56, vision_width: 56"

    assert any(
        text.startswith("vision_included: true alone") for text in plan.waste(resolved(sees, f"{lists}, {SEES}"))
    )
    assert not any("alone" in text for text in plan.waste(resolved(sees, f"{lists}, {BOTH}")))
