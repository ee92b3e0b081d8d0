"""The names of slots are made, told apart and read at one place."""

import pytest

from aot.slots import GIVES, INPUT, STATE, TAKES, WEIGHT, Slot, prefixes, slot_of

KINDS = tuple(dict.fromkeys((*TAKES, *GIVES)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_is_read_as_it_was_named(kind):
    name = kind.slot("cache/0/key")

    assert name == f"{kind}/cache/0/key"
    assert type(name) is str
    assert slot_of(name) == Slot(kind, "cache/0/key")
    assert [other for other in KINDS if other.holds(name)] == [kind]


def test_arrays_by_path_are_those_by_slot_of_one_kind():
    arrays = STATE.slots({"lengths": 1, "cache/0/key": 2}) | INPUT.slots({"lengths": 3})

    assert arrays == {"state/lengths": 1, "state/cache/0/key": 2, "input/lengths": 3}
    assert STATE.paths(arrays) == {"lengths": 1, "cache/0/key": 2}
    assert INPUT.paths(arrays) == {"lengths": 3}
    assert WEIGHT.paths(arrays) == {}


def test_a_name_that_only_begins_like_a_kind_is_none_of_it():
    assert [name for name in ("states/x", "state", "input/x") if name.startswith(prefixes(STATE, INPUT))] == ["input/x"]
    assert slot_of("state") == Slot("state", "")
