import itertools
import math
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aot.buckets import Need, RowGroup, Table
from aot.errors import NoEntryError
from aot.precompile import Combo, PreCompileConfig

SIZES = st.integers(1, 6)
COMBOS = st.lists(
    st.builds(
        Combo,
        batch_size=st.integers(1, 4),
        prefill_length=SIZES | st.none(),
        max_length=SIZES.map((6).__add__),
        vision_included=st.booleans(),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda combo: combo.key,
)


def combo(batch: int, prefill: int | None = None, capacity: int | None = None, **others: object) -> Combo:
    return Combo(batch_size=batch, prefill_length=prefill, max_length=capacity, **others)


def work(one: Combo) -> int:
    return math.prod(size or 1 for size in (one.batch_size, one.prefill_length, one.max_length))


def holds(one: Combo, need: Need) -> bool:
    pairs = ((one.batch_size, need.rows), (one.prefill_length, need.tokens), (one.max_length, need.total))
    return one.vision_included >= need.images and all(None in pair or pair[0] >= pair[1] for pair in pairs)


def set_partitions(items: list[int]):
    if not items:
        yield []
        return
    first, *rest = items
    for size in range(len(rest) + 1):
        for mates in itertools.combinations(rest, size):
            others = [item for item in rest if item not in mates]
            for remainder in set_partitions(others):
                yield [[first, *mates], *remainder]


def need(group: Sequence[int], tokens: list[int], budget: int, images: set[int]) -> Need:
    most = max(tokens[row] for row in group)
    return Need(len(group), most, most + budget, images=not images.isdisjoint(group))


def least(tokens: list[int], budget: int, images: set[int], combos: list[Combo]) -> tuple[int, int] | None:
    """Groups and padded work of the best of all set partitions; None when there is none."""
    costs = []
    for groups in set_partitions(list(range(len(tokens)))):
        needs = [need(group, tokens, budget, images) for group in groups]
        works = [min((work(one) for one in combos if holds(one, need)), default=None) for need in needs]
        if None not in works:
            costs.append((len(groups), sum(works)))
    return min(costs, default=None)


@given(COMBOS, st.integers(1, 5), SIZES, st.integers(1, 14), st.booleans())
def test_choice_holds_the_need_with_the_least_padded_work(combos, rows, tokens, total, images):
    need = Need(rows, tokens, total, images=images)

    chosen = Table(combos).choose(need)

    fitting = [one for one in combos if holds(one, need)]
    assert (chosen is None) == (not fitting)
    assert chosen is None or (chosen in fitting and work(chosen) == min(map(work, fitting)))


@given(COMBOS, st.integers(1, 4), st.randoms())
def test_choice_does_not_depend_on_the_order_of_combos(combos, rows, random):
    shuffled = random.sample(combos, len(combos))

    assert Table(shuffled).choose(Need(rows)) == Table(combos).choose(Need(rows))


def test_equal_work_is_decided_by_the_dimensions_in_order():
    combos = [combo(4, 16), combo(1, 64), combo(2, 32)]

    assert Table(combos).choose(Need(1, 10)) == combo(1, 64)


def test_props_are_equal_with_their_types():
    combos = [combo(1, 8, required_props={"a": 1}), combo(4, 8, required_props={"a": True}), combo(8, 8)]

    assert Table(combos).choose(Need(1, 1, props={"a": True})) == combos[1]
    assert Table(combos).choose(Need(1, 1, props={})) == combos[2]
    assert Table(combos).choose(Need(1, 1, props={"a": 1.0})) is None


def test_a_dimension_that_combos_lack_holds_any_size():
    assert Table([combo(2)]).choose(Need(1, 10**6, 10**6)) == combo(2)


@settings(max_examples=150, deadline=None)
@given(COMBOS, st.lists(SIZES, max_size=6), st.integers(0, 5), st.sets(st.integers(0, 5)))
def test_partition_is_the_best_of_all_set_partitions(combos, tokens, budget, images):
    expected = least(tokens, budget, images, combos)
    if expected is None:
        with pytest.raises(NoEntryError):
            Table(combos).partition(tokens, budget, images=images)
        return

    groups = Table(combos).partition(tokens, budget, images=images)

    assert (len(groups), sum(work(group.combo) for group in groups)) == expected
    assert sorted(row for group in groups for row in group.rows) == list(range(len(tokens)))
    for group in groups:
        assert group.combo == Table(combos).choose(need(group.rows, tokens, budget, images))
        assert list(group.rows) == sorted(group.rows)


def test_a_refusal_counts_a_dimension_that_a_combo_lacks_as_no_limit():
    combos = [Combo(batch_size=1, max_length=7), combo(1, 4, 9)]

    with pytest.raises(NoEntryError, match="no entry holds 1 row of 5 prompt tokens and 9 tokens"):
        Table(combos).partition([5], 4)


def test_four_rows_that_only_the_narrow_combo_holds_take_four_groups():
    combos = [combo(1, 64), combo(4, 32)]

    groups = Table(combos).partition([60] * 4, 0)

    assert groups == tuple(RowGroup(combo(1, 64), (row,)) for row in range(4))


def test_partition_keeps_equal_rows_in_their_order():
    groups = Table([combo(4, 8)]).partition([5] * 8, 0)

    assert [group.rows for group in groups] == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_zip_example_serves_by_the_least_combo():
    combos = PreCompileConfig(batch_size=[1, 1, 8], prefill_length=[64, 4096, 64]).get_standalones()

    groups = Table(combos).partition([60, 3000, 50], 0)

    assert [(group.combo.batch_size, group.combo.prefill_length, group.rows) for group in groups] == [
        (8, 64, (0, 2)),
        (1, 4096, (1,)),
    ]


def counted(work):
    """What some work gives, and the functions that it calls, which are as many on every machine."""
    calls = itertools.count()
    sys.setprofile(lambda frame, event, argument: next(calls) if "call" in event else None)
    try:
        return work(), next(calls)
    finally:
        sys.setprofile(None)


def test_a_thousand_rows_over_64_combos_are_grouped_fast():
    sizes = [2**n for n in range(8)]
    combos = PreCompileConfig(batch_size=sizes, prefill_length=[64 * size for size in sizes]).expand("product")
    tokens = [1 + 37 * row % 8191 for row in range(1000)]

    groups, calls = counted(lambda: Table(combos).partition(tokens, 0))

    assert len(groups) == 8
    assert calls < 1_000_000


@pytest.mark.parametrize("sizes", [[8], [1, 4], [1, 2, 4, 8, 16]])
def test_a_thousand_rows_with_pictures_and_without_are_grouped_fast(sizes):
    lengths = [64 * 2**n for n in range(6)]
    combos = [
        combo(rows, length, vision_included=sees) for rows in sizes for length in lengths for sees in (False, True)
    ]
    tokens = [1 + 37 * row % 2047 for row in range(1000)]

    groups, calls = counted(lambda: Table(combos).partition(tokens, 0, images=set(range(0, 1000, 2))))

    assert len(groups) == -(-1000 // max(sizes))
    assert calls < 1_000_000


@pytest.mark.parametrize(
    ("need", "message"),
    [
        (
            Need(1, 300, 364),
            "300 tokens exceed the largest prefill bucket, 256; add one to precompile.prefill_length and",
        ),
        (
            Need(1, 250, 400),
            "400 tokens (250 of the prompt, 150 to generate) exceed the largest max_length, 320; add one",
        ),
        (Need(9, 20, 30), "9 rows exceed the largest batch_size, 4; add one to precompile.batch_size and rebuild"),
        (
            Need(4, 200, 250),
            "no entry holds 4 rows of 200 prompt tokens and 250 tokens with the generated ones together",
        ),
        (Need(1, 1, 1, {"a": 1}), "no entry has the props {'a': 1}; the nearest has None; add them to precompile.req"),
    ],
)
def test_refusal_names_the_dimension_that_fails(need, message):
    combos = [combo(1, 256, 320), combo(4, 64, 128)]

    error = Table(combos).refusal(need)

    assert str(error).startswith("request: ")
    assert message in str(error)
    assert "\n" not in str(error)


def test_refusal_of_one_row_names_the_nearest_combo():
    combos = [combo(1, 64, 128), combo(8, 64, 128), combo(1, 512, 576)]

    with pytest.raises(NoEntryError, match="nearest entry has batch_size 1, prefill_length 512, max_length 576"):
        Table(combos).partition([10, 600], 10)


def test_nearest_misses_by_the_least_ratio():
    combos = [combo(1, 64), combo(1, 512), combo(1, 256)]

    assert Table(combos).nearest(Need(1, 600)) == combo(1, 512)
