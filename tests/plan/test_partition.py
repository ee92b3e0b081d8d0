"""Partition rules: which axis of an array is split over which axis of a mesh, and what is wrong with rules."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from aot import partition
from aot.partition import Dimensions, Layouts, Rules

MESH = {"data": 2, "model": 4}
NAMED = Dimensions((("q", ("head", "hidden")), ("(state|input|value)/.*", ("batch",))), {"head": 6})


def laid(rules: Rules, *arrays: tuple[str, tuple[int, ...]], phase: str = "prefill", mesh=MESH) -> Layouts:
    layouts = Layouts(mesh, rules)
    for path, shape in arrays:
        layouts.of(path, shape, phase, NAMED)
    return layouts


def axes(rules: Rules, path: str, shape: tuple[int, ...], phase: str = "prefill") -> partition.Axes:
    return laid(rules).of(path, shape, phase, NAMED).axes


def test_the_first_rule_whose_pattern_matches_the_whole_path_counts():
    rules = Rules((("q", ("model",)), ("q.*", ("data",)), (".*", ())))

    assert axes(rules, "q", (8, 8)) == ("model", None)
    assert axes(rules, "q2", (8, 8)) == ("data", None)
    assert axes(rules, "a/q", (8, 8)) == (None, None)


def test_written_rules_come_before_derived_ones():
    rules = Rules((("q", (None, "data")),), {"head": "model"})

    assert axes(rules, "q", (8, 8)) == (None, "data")


def test_a_mesh_axis_that_two_dimensions_name_splits_the_first_of_them():
    rules = Rules(table={"head": "data", "hidden": ("data", "model")})

    assert axes(rules, "q", (6, 8)) == ("data", "model")


def test_state_and_the_inputs_of_decode_lie_as_decode_says():
    rules = Rules(table={"batch": "data"}, decode={"batch": "model"})

    assert axes(rules, "input/x", (8,)) == ("data",)
    assert axes(rules, "input/x", (8,), "decode") == ("model",)
    assert axes(rules, "state/x", (8,)) == axes(rules, "state/x", (8,), "decode") == ("model",)


def test_weights_lie_alike_in_every_phase():
    rules = Rules(table={"hidden": "data"}, decode={"hidden": "model"})

    assert axes(rules, "q", (6, 8)) == axes(rules, "q", (6, 8), "decode") == (None, "data")


def test_combos_may_call_the_axes_of_an_input_otherwise_and_those_of_a_weight_may_not():
    layouts = Layouts(MESH, Rules(table={"batch": "data", "hidden": "model"}))
    other = Dimensions((("input/x", ("hidden",)), ("q", ("hidden",))))
    found = [
        layouts.of(path, (8,) * (1 + (path == "q")), "prefill", d).axes
        for d in (NAMED, other)
        for path in ("input/x", "q")
    ]

    assert found == [("data",), (None, "model"), ("model",), ("model", None)]
    assert [fault.split(";")[0] for fault in layouts.wrong()][-1] == "'q' lies otherwise in one combo than in another"


def test_heads_stay_whole_however_many_places_an_array_has_for_each():
    layouts = laid(Rules(table={"head": "model"}), ("q", (24, 8)))

    assert list(layouts.wrong()) == [
        "axis 0 of 'q' has 6 parts of 4, model of the mesh has 4, which does not divide it; change either, or say "
        "indivisible: replicate"
    ]


def test_what_the_mesh_does_not_divide_is_whole_on_request_and_says_why():
    layouts = laid(Rules(table={"batch": "data"}, replicate=True), ("input/x", (1,)))
    layout = layouts.of("input/x", (1,), "prefill", NAMED)

    assert list(layouts.wrong()) == []
    assert (layout.axes, layout.whole) == ((None,), ("axis 0 of 'input/x' has 1, data of the mesh has 2",))


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ((("q", ("rows",)),), "mesh data 2 × model 4 has no axis 'rows', over which 'q' is split"),
        ((("q", ("data",) * 3),), "rule 'q' has 3 entries, 'q' has 2 axes [8, 8]; shorten it"),
        ((("q", ("data", "data")),), "rule 'q' splits two axes of one array over the mesh axis 'data'; leave one"),
        ((("q", ()), ("x", ())), "rule 'x' matches no array; remove it, or correct it"),
        (((".*", ()), ("q", ())), "rule 'q' matches only what earlier rules match; remove it, or move it up"),
        ((("x", ()),), "no rule matches q; add one, or axes"),
        ((), "has neither rules nor axes, and the mesh data 2 × model 4 more than one device; give either"),
    ],
)
def test_a_wrong_rule_is_named(written, fault):
    assert fault in laid(Rules(written), ("q", (8, 8))).wrong()


def test_a_derived_rule_may_match_nothing():
    assert list(laid(Rules(table={"batch": "data"}), ("q", (6, 8))).wrong()) == []


def test_what_holds_for_every_layer_is_said_once():
    rules = Rules((("a/.*", ("model",)),))
    layouts = laid(rules, *[(f"a/{n}/w", (2,)) for n in range(3)], *[(f"b/{n}/w", (2,)) for n in range(3)])

    assert [fault.split(";")[0] for fault in layouts.wrong()] == [
        "axis 0 of 'a/*/w' has 2, model of the mesh has 4, which does not divide it",
        "no rule matches b/*/w",
    ]


def test_values_that_no_rule_matches_are_whole():
    layouts = Layouts(MESH, Rules((("q", ()),)))

    assert layouts.of("value/y", (4, 4), "prefill", Dimensions()).axes == (None, None)
    assert layouts.unmatched == set()


def test_matches_count_each_array_once():
    layouts = laid(Rules(((".*", ()),)), ("a", (1,)), ("a", (2,)), ("b", (1,)))

    assert {pattern: len(paths) for pattern, paths in layouts.matches.items()} == {".*": 2}


@given(st.lists(st.sampled_from([None, "data", "model", ("data", "model"), ("model", "data")]), max_size=3))
def test_the_share_of_a_device_is_what_jax_says(entries):
    made = partition._once(entries)
    shape = (16,) * len(made)
    sharding = NamedSharding(AbstractMesh((2, 4), ("data", "model")), PartitionSpec(*made))

    assert partition.device_share(shape, MESH, made) == sharding.shard_shape(shape)
    assert math.prod(shape) == math.prod(partition.device_share(shape, MESH, made)) * partition.split_count(MESH, *made)
