"""Every request with images maps to entries or is refused by name: the way of the runtime, from pictures to combos."""

from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from aot import vision
from aot.buckets import RowGroup, Table
from aot.errors import NoEntryError
from aot.plan import images as planning
from aot.precompile import Combo, PreCompileConfig
from aot.runtime.prompting.prompts import Reader
from aot.runtime.prompting.recipe import Recipe
from aot.runtime.requests import Prepared
from aot.vision import Images, Size

IMAGE, START, END, WORD = 90, 92, 93, 5
STEPS = ({"step": "convert", "mode": "RGB"}, {"step": "resize", "resample": "nearest", "fit": "stretch"})
IMAGES = Images(IMAGE, (START,), (END,), 8, 0, 3, "grid", STEPS)
RECIPE = Recipe(IMAGES, "bundle tiny")

SIDES = st.sampled_from([8, 16, 24, 40])
BUCKETS = st.lists(st.sampled_from([8, 16, 32, 64]), min_size=1, max_size=3, unique=True)
SHAPES = st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3, unique=True)
SEEING = st.sampled_from([[True], [False, True], [False]])
ROOMS = st.lists(st.integers(1, 3), min_size=1, max_size=2, unique=True)
PICTURE = st.tuples(st.integers(1, 60), st.integers(1, 60))
ROW = st.tuples(st.integers(1, 30), st.lists(PICTURE, max_size=3))
BUDGET = 8


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """What a plan leaves of a product with image shapes."""
    shapes, rooms = draw(SHAPES), draw(ROOMS)
    heights, widths = zip(*shapes, strict=True)
    combos: list[Combo] = []
    for room in rooms:
        config = PreCompileConfig(
            batch_size=draw(st.lists(st.integers(1, 4), min_size=1, max_size=2, unique=True)),
            prefill_length=draw(BUCKETS),
            vision_included=draw(SEEING),
            vision_batch_size=room,
            vision_channels=3,
            vision_height=list(heights),
            vision_width=list(widths),
        )
        filled = [combo.replace(max_length=(combo.prefill_length or 0) + BUDGET) for combo in config.expand("product")]
        fitted = planning.fitted(filled, "product", IMAGES)
        assume(not fitted.faults)
        combos += (combo for combo in fitted.combos if combo not in combos)
    return Table(combos)


def read(table: Table, rows: Sequence[tuple[int, Sequence[tuple[int, int]]]]) -> list[Prepared]:
    """The rows as the runtime prepares them: so many words, and pictures of these widths and heights."""
    sizes = tuple({size for combo in table.alike(None, images=True) if (size := vision.image_shape(combo))})
    reader = Reader(lambda: None, 96, RECIPE, sizes)
    made = []
    for words, pictures in rows:
        ids = [*[START, IMAGE, END] * len(pictures), *[WORD] * words]
        made.append(reader.read(ids, 0, [Image.new("RGB", size) for size in pictures]))
    return made


def fits_alone(table: Table, row: Prepared) -> bool:
    """Whether some combo holds the row, by the dimensions alone."""
    return any(
        (combo.prefill_length or 0) >= len(row.ids)
        and (combo.max_length or 0) >= len(row.ids) + BUDGET
        and (combo.vision_included or not row.images)
        for combo in table.combos
    )


def grouped(table: Table, rows: Sequence[Prepared]) -> tuple[RowGroup, ...]:
    seeing = {place for place, row in enumerate(rows) if row.images}
    return table.partition([len(row.ids) for row in rows], BUDGET, None, seeing)


@settings(max_examples=200, deadline=None)
@given(tables(), st.lists(ROW, min_size=1, max_size=6))
def test_every_row_has_one_prefill_and_every_image_one_encode_or_the_request_is_refused(table, rows):
    try:
        prepared = read(table, rows)
        groups = grouped(table, prepared)
    except NoEntryError:
        blind = not table.alike(None, images=True)
        alone = [row for row in rows if not (blind and row[1])]
        assert len(alone) < len(rows) or not all(fits_alone(table, row) for row in read(table, alone))
        return

    assert sorted(place for group in groups for place in group.rows) == list(range(len(rows)))
    for group in groups:
        served = [prepared[place] for place in group.rows]
        assert group.combo.batch_size >= len(served)
        assert (group.combo.prefill_length or 0) >= max(len(row.ids) for row in served)
        assert (group.combo.max_length or 0) >= max(len(row.ids) for row in served) + BUDGET
        assert group.combo.vision_included or not any(row.images for row in served)
        for size in {image.size for row in served for image in row.images}:
            count = sum(image.size == size for row in served for image in row.images)
            calls = vision.encode_batches(table.alike(None, images=True), size, count)
            assert {vision.image_shape(combo) for combo in calls} == {size}
            assert sum(combo.vision_batch_size or 0 for combo in calls[:-1]) < count
            assert sum(combo.vision_batch_size or 0 for combo in calls) >= count


@settings(max_examples=200, deadline=None)
@given(tables(), PICTURE)
def test_a_picture_alone_with_a_word_always_has_entries_where_any_take_pictures(table, picture):
    if table.alike(None, images=True):
        (row,) = read(table, [(1, [picture])])

        assert fits_alone(table, row)


@settings(max_examples=100, deadline=None)
@given(tables(), st.lists(ROW, min_size=1, max_size=5), st.randoms())
def test_entries_do_not_depend_on_the_order_of_combos(table, rows, random):
    other = Table(random.sample(table.combos, len(table.combos)))
    try:
        expected = grouped(table, read(table, rows))
    except NoEntryError:
        with pytest.raises(NoEntryError):
            grouped(other, read(other, rows))
        return

    assert grouped(other, read(other, rows)) == expected


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 20))
def test_images_are_encoded_in_the_fewest_calls_with_the_least_padding(rooms, images):
    combos = [
        Combo(1, 8, 16, vision_included=True, vision_batch_size=n, vision_channels=3, vision_height=8, vision_width=8)
        for n in rooms
    ]

    calls = [combo.vision_batch_size or 0 for combo in vision.encode_batches(combos, Size(8, 8), images)]

    fewest = -(-images // max(rooms))
    assert len(calls) == fewest
    assert sum(calls) >= images
    assert sum(calls) == least_room(rooms, fewest, images)


def least_room(rooms: Sequence[int], calls: int, images: int) -> int:
    """The least room of exactly so many calls that hold the images."""
    sums = {0}
    for _ in range(calls):
        sums = {total + room for total in sums for room in rooms}
    return min(total for total in sums if total >= images)
