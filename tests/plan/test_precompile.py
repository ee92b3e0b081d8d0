import hashlib
import json
import pickle

import pytest

from aot.errors import InputError
from aot.precompile import FIELDS, Combo, PreCompileConfig

ABSENT = dict.fromkeys(FIELDS) | {"batch_size": 1, "vision_included": False}


def points(combos: tuple[Combo, ...], *names: str) -> list[tuple]:
    return [tuple(getattr(combo, name) for name in names) for combo in combos]


def test_key_is_the_hash_of_json_that_anyone_can_write():
    combo = Combo(batch_size=4, prefill_length=64, max_length=128)

    text = json.dumps(
        {"schema": 1, **ABSENT, "batch_size": 4, "prefill_length": 64, "max_length": 128},
        sort_keys=True,
        separators=(",", ":"),
    )
    assert combo.key == hashlib.sha256(text.encode()).hexdigest()
    assert combo.get_default_hash() == int(combo.key, 16)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"batch_size": [4]}, {"batch_size": 4}),
        ({"batch_size": (1, 2)}, {"batch_size": [1, 2]}),
        ({}, {"batch_size": None, "prefill_length": None, "vision_included": None}),
        ({"required_props": {}}, {"required_props": None}),
        ({"required_props": {"a": [1], "b": 2}}, {"required_props": {"b": 2, "a": (1,)}}),
        ({"required_props": [{}]}, {}),
    ],
)
def test_spellings_of_one_config_have_one_key(one, other):
    assert PreCompileConfig(**one).key == PreCompileConfig(**other).key
    assert PreCompileConfig(**one) == PreCompileConfig(**other)


def test_each_field_and_each_type_has_a_key_of_its_own():
    props = [{"a": 1}, {"a": "1"}, {"a": True}, {"a": 1.0}, {"a": None}, {"a": {}}]
    configs = [PreCompileConfig(required_props=one) for one in props]
    configs += [PreCompileConfig(**{name: True if name == "vision_included" else 7}) for name in FIELDS[:-1]]
    configs += [PreCompileConfig(), PreCompileConfig(batch_size=[1, 2]), PreCompileConfig(batch_size=[2, 1])]

    assert len({config.key for config in configs}) == len(configs)
    assert len(set(configs)) == len(configs)


def test_zip_reads_lists_as_columns():
    config = PreCompileConfig(batch_size=[1, 1, 8], prefill_length=[64, 4096, 64])

    assert points(config.get_standalones(), "batch_size", "prefill_length") == [(1, 64), (1, 4096), (8, 64)]


def test_zip_repeats_the_last_value_of_shorter_lists():
    config = PreCompileConfig(batch_size=[1, 2], prefill_length=[8, 16, 32], max_length=64)

    combos = config.expand("zip")

    assert points(combos, "batch_size", "prefill_length", "max_length") == [(1, 8, 64), (2, 16, 64), (2, 32, 64)]


def test_product_crosses_lists_in_field_order():
    config = PreCompileConfig(batch_size=[1, 4], prefill_length=[32, 64], required_props=[{}, {"a": 1}])

    combos = config.expand("product")

    assert points(combos, "batch_size", "prefill_length", "required_props")[:3] == [
        (1, 32, None),
        (1, 32, {"a": 1}),
        (1, 64, None),
    ]
    assert len(combos) == config.count("product") == 8


def test_product_zips_vision_lists_into_one_axis():
    config = PreCompileConfig(
        batch_size=[1, 2], vision_included=[False, True], vision_height=[224, 224, 448], vision_width=[224, 448]
    )

    combos = config.expand("product")

    assert points(combos, "batch_size", "vision_height", "vision_width") == [
        (batch, *shape) for batch in (1, 2) for shape in ((None, None), (224, 224), (224, 448), (448, 448))
    ]
    assert config.count("product") == len(combos)


@pytest.mark.parametrize("how", ["zip", "product"])
def test_vision_dimensions_are_null_where_vision_is_off(how):
    config = PreCompileConfig(vision_height=[224, 448], vision_batch_size=2)

    assert config.expand(how) == (Combo(),)
    assert config.expand(how)[0].dimensions() == ABSENT
    assert config.count(how) == 1


def test_count_needs_no_expansion():
    config = PreCompileConfig(batch_size=list(range(1, 10**4)), prefill_length=list(range(1, 10**4)))

    assert config.count("product") == (10**4 - 1) ** 2


@pytest.mark.parametrize(
    ("fields", "how", "message"),
    [
        (
            {"prefill_length": [128, 128]},
            "product",
            "precompile.prefill_length: values must be distinct, got [128, 128]",
        ),
        ({"batch_size": [1, 1]}, "zip", "precompile.expand: rows 1 and 2 of the zipped lists are equal"),
        ({"required_props": [{}, {"a": 1}, {}]}, "product", "precompile.required_props: values must be distinct"),
        (
            {"vision_included": True, "vision_height": [8, 8], "vision_width": 8},
            "product",
            "precompile.vision_height: image shapes must be distinct, got [8, 8]",
        ),
        (
            {"prefill_length": [64, 128], "max_length": [128, 256]},
            "product",
            "precompile.max_length: must be above prefill_length, got 128 for prefill_length 128",
        ),
        ({}, "both", "precompile.expand: must be 'product' or 'zip', got 'both'"),
    ],
)
def test_expansion_refuses_what_it_cannot_mean(fields, how, message):
    with pytest.raises(InputError) as caught:
        PreCompileConfig(**fields).expand(how)

    assert str(caught.value).startswith(message)


def test_zip_allows_a_cache_that_only_another_row_would_outgrow():
    config = PreCompileConfig(prefill_length=[64, 128], max_length=[128, 256])

    assert len(config.expand("zip")) == 2


def test_null_in_a_list_is_a_value_where_null_alone_may_stand():
    combos = PreCompileConfig(prefill_length=64, max_length=[None, 128]).expand("zip")

    assert points(combos, "max_length") == [(None,), (128,)]
    with pytest.raises(InputError):
        PreCompileConfig(batch_size=[None, 1])


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "4", [], [1, 0], [[1]], 2**31, {"min": 1}])
def test_a_dimension_is_a_positive_integer_or_a_list_of_them(value):
    with pytest.raises(InputError, match=r"^precompile\.batch_size: must ") as caught:
        PreCompileConfig(batch_size=value)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [{"a": float("nan")}, {1: 2}, {"a": object()}, "a", 3])
def test_props_are_mappings_of_json_values(value):
    with pytest.raises(InputError, match=r"^precompile\.required_props: must be a mapping"):
        PreCompileConfig(required_props=value)


def test_all_wrong_fields_are_reported_at_once():
    with pytest.raises(InputError) as caught:
        PreCompileConfig(batch_size=0, max_length="x", vision_included=1)

    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "precompile.batch_size",
        "precompile.max_length",
        "precompile.vision_included",
    ]


def test_a_combo_takes_scalars_only():
    assert Combo(batch_size=[4]).batch_size == 4
    with pytest.raises(InputError, match=r"^precompile\.batch_size: a combo has one value, got \[1, 2\]"):
        Combo(batch_size=[1, 2])


@pytest.mark.parametrize(
    ("ends", "lengths"),
    [
        ((64, 2048), (64, 128, 256, 512, 1024, 2048)),
        ((48, 200), (48, 96, 192, 200)),
        ((64, 64), (64,)),
        ((1, 3), (1, 2, 3)),
    ],
)
def test_prefill_lengths_double_from_min_to_max(ends, lengths):
    config = PreCompileConfig.create_optimized_compo(4, max_prefill_length=ends[1], min_prefill_length=ends[0])

    assert (config.batch_size, config.prefill_length) == (4, lengths)


@pytest.mark.parametrize("ends", [(128, 64), (0, 64), (64, 0), (True, 64), ("64", 128)])
def test_doubling_refuses_ends_that_make_no_range(ends):
    with pytest.raises(InputError, match=r"^precompile\.prefill_length: min|^precompile\.prefill_length: max"):
        PreCompileConfig.create_optimized_compo(min_prefill_length=ends[0], max_prefill_length=ends[1])


def test_round_trips_keep_the_key():
    config = PreCompileConfig(batch_size=[1, 4], prefill_length=64, required_props=[{}, {"a": {"b": [1, None, 2.5]}}])

    copies = [
        PreCompileConfig.from_dict(config.to_dict()),
        PreCompileConfig.from_json(config.to_json()),
        PreCompileConfig(**config.extract()),
        config.replace(),
        pickle.loads(pickle.dumps(config)),
    ]

    assert {copy.key for copy in copies} == {config.key}
    assert [Combo.from_dict(combo.dimensions()) for combo in config.expand()] == list(config.expand())


def test_replace_gives_a_new_config_and_leaves_the_old():
    config = PreCompileConfig(batch_size=4)

    assert config.replace(batch_size=8, max_length=16) == PreCompileConfig(batch_size=8, max_length=16)
    assert config.batch_size == 4


def test_nothing_given_or_taken_shares_memory_with_a_config():
    props = {"a": [1]}
    config = PreCompileConfig(required_props=props)
    key = config.key

    props["a"].append(2)
    config.extract()["required_props"]["a"].append(3)
    config.to_dict()["required_props"]["a"].append(4)

    assert config.replace().key == key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "precompile: is not JSON"),
        ("[1]", "precompile: must be a JSON object, got [1]"),
        ('{"prefil_length": 1}', "precompile: unknown key 'prefil_length'; did you mean 'prefill_length'?"),
    ],
)
def test_json_of_anything_else_is_refused(text, message):
    with pytest.raises(InputError) as caught:
        PreCompileConfig.from_json(text)

    assert str(caught.value).startswith(message)


def test_key_schema_is_part_of_the_key(monkeypatch):
    before = Combo().key
    monkeypatch.setattr("aot.precompile.SCHEMA", 2)

    assert Combo().key != before
