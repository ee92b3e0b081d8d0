import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from places import TESTS
from safetensors import numpy
from sending import sent

from aot import digest, plan
from aot.builder.stages import provenance
from aot.errors import ManifestError
from aot.models.families import family
from aot.plan import Plan, generation_config
from aot.plan.manifests import yaml
from aot.precompile import Combo
from aot.sampling import Restrictions, SamplingParams

CASES = TESTS / "cases"
CONFIG = json.loads((CASES / "checkpoint/config.json").read_text())
MINIMAL = "name: a\nmodel: {checkpoint: tiny}\nprecompile: {prefill_length: 64}\n"

BESIDE = "a.yaml:4: generation.sampling: tiny/generation_config.json"
REFUSED = [
    {"num_beams": 4},
    {"min_new_tokens": 3},
    {"min_length": 20},
    {"forced_eos_token_id": 2},
    {"forced_bos_token_id": 1},
    {"sequence_bias": [[[3], 2.0]]},
    {"guidance_scale": 1.5},
    {"no_repeat_ngram_size": 3},
    {"exponential_decay_length_penalty": [5, 1.1]},
    {"typical_p": 0.9},
    {"max_time": 2.5},
]
INERT = {
    "guidance_scale": 1,
    "min_length": 0,
    "num_beams": 1,
    "sequence_bias": {},
    "max_new_tokens": 5,
    "use_cache": True,
    "cache_implementation": "hybrid",
    "_from_model_config": True,
    "suppress_tokens": [],
    "bad_words_ids": None,
}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A directory with the checkpoint `tiny`, a configuration without weights."""
    write(tmp_path / "tiny/config.json", CONFIG)
    return tmp_path


def write(file: Path, data: object) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(data))


def resolved(directory: Path, text: str) -> Plan:
    (directory / "a.yaml").write_text(text)
    return plan.resolve(plan.read_manifest(directory / "a.yaml"))


def refused(directory: Path, text: str) -> str:
    with pytest.raises(ManifestError) as caught:
        resolved(directory, text)
    return str(caught.value).replace(f"{directory}/", "")


def shown(made: Plan) -> str:
    """What a plan says, as a text that differs where the plan does."""
    plain = json.loads(digest.canonical_json(provenance.plan_document(made)))
    del plain["model"]["config"], plain["model"]["preprocessor"]
    plain["model"]["tokenizer"] = None if made.model.tokenizer is None else str(made.model.tokenizer)
    combos = [
        " ".join([combo.key, *(f"{k}={v}" for k, v in combo.dimensions().items() if v not in (None, False))])
        for combo in made.combos
    ]
    fields = [
        f"{name}: {json.dumps(value, sort_keys=True)}" for name, value in sorted(plain.items()) if name != "combos"
    ]
    return "\n".join([*combos, *fields, *plan.waste(made)]) + "\n"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in CASES.glob("*/plan.txt")))
def test_plan_is_as_recorded(name, monkeypatch):
    monkeypatch.chdir(CASES / name)

    made = plan.resolve(plan.read_manifest(Path("manifest.yaml")))

    assert shown(made) == Path("plan.txt").read_text()


@pytest.mark.parametrize("name", sorted(path.parent.name for path in CASES.glob("*/error.txt")))
def test_faults_are_as_recorded(name, monkeypatch):
    monkeypatch.chdir(CASES / name)

    with pytest.raises(ManifestError) as caught:
        plan.resolve(plan.read_manifest(Path("manifest.yaml")))

    assert f"{caught.value}\n" == Path("error.txt").read_text()


def test_every_case_is_run():
    cases = {path.parent for path in CASES.glob("*/manifest.yaml")}

    assert {case for case in cases if (case / "plan.txt").exists() != (case / "error.txt").exists()} == cases


@pytest.mark.parametrize("name", sorted(path.parent.name for path in CASES.glob("*/plan.txt")))
def test_a_plan_comes_through_to_a_worker_as_it_is(name):
    made = plan.resolve(plan.read_manifest(CASES / name / "manifest.yaml"))

    copy = sent(made)

    assert copy == made
    assert type(copy.targets) is type(copy.allow_custom_calls) is tuple


def test_key_ignores_yaml_order_and_comments(tiny):
    one = resolved(tiny, MINIMAL + "generation: {max_new_tokens: 8}\n")
    other = resolved(
        tiny,
        "generation: {max_new_tokens: 8}\nprecompile:\n  # why\n  prefill_length: [64]\n"
        "model: {checkpoint: tiny}\nname: b\n",
    )

    assert [combo.key for combo in one.combos] == [combo.key for combo in other.combos]


def test_defaults_are_in_the_key():
    given = Combo(prefill_length=64, max_length=64 + 64)

    (case,) = [
        combo for combo in plan.resolve(plan.read_manifest(CASES / "zip/manifest.yaml")).combos if combo.batch_size == 8
    ]

    assert case == given.replace(batch_size=8, max_length=64 + 16)


def test_combos_that_defaults_make_equal_are_one_when_united(tiny):
    made = resolved(
        tiny, MINIMAL.replace("{prefill_length: 64}", "[{prefill_length: 64}, {prefill_length: 64, max_length: 128}]")
    )

    assert made.combos == (Combo(prefill_length=64, max_length=128),)


def test_paths_are_relative_to_the_manifest_and_may_be_links(tiny, monkeypatch):
    (tiny / "link").symlink_to("tiny")
    (tiny / "a.yaml").write_text(MINIMAL.replace("tiny", "link"))
    monkeypatch.chdir("/")

    made = plan.resolve(plan.read_manifest(tiny / "a.yaml"))

    assert made.model.checkpoint == (tiny / "tiny").resolve()
    assert made.model.directory == tiny.resolve()


def test_configuration_in_a_plan_has_no_path_of_the_machine_that_wrote_it(tiny):
    write(tiny / "tiny/config.json", CONFIG | {"_name_or_path": "/home/someone/model"})

    assert resolved(tiny, MINIMAL).model.config == CONFIG


@pytest.mark.parametrize(
    ("generation_config", "config", "eos", "pad", "bos"),
    [
        ({"eos_token_id": [3, 4], "pad_token_id": 9}, {"eos_token_id": 5, "bos_token_id": 6}, (3, 4), 9, 6),
        ({"eos_token_id": None}, {"eos_token_id": 5}, (5,), 5, None),
        ({"pad_token_id": -1}, {"eos_token_id": [5, 5, 999]}, (5,), 5, None),
        (None, {}, (17,), 18, None),
    ],
)
def test_special_tokens_come_from_the_first_file_that_names_them(tiny, generation_config, config, eos, pad, bos):
    if generation_config is not None:
        write(tiny / "tiny/generation_config.json", generation_config)
    plain = {name: value for name, value in CONFIG.items() if not name.endswith("token_id")}
    write(tiny / "tiny/config.json", plain | config)
    if not config:
        write(tiny / "tiny/tokenizer_config.json", {"eos_token": "</s>", "pad_token": {"content": "<pad>"}})
        added = [{"id": 17, "content": "</s>"}, {"id": 18, "content": "<pad>"}]
        write(tiny / "tiny/tokenizer.json", {"added_tokens": added})

    made = resolved(tiny, MINIMAL).generation

    assert (made.eos_token_id, made.pad_token_id, made.bos_token_id) == (eos, pad, bos)


def test_without_any_eos_generation_never_ends_and_pads_with_0(tiny):
    write(tiny / "tiny/config.json", {name: v for name, v in CONFIG.items() if not name.endswith("token_id")})

    made = resolved(tiny, MINIMAL).generation

    assert (made.eos_token_id, made.pad_token_id, made.bos_token_id) == ((), 0, None)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"do_sample": True, "top_k": 20}, (1.0, 20, 1.0, 1.0)),
        ({"do_sample": True, "temperature": 0.5, "top_p": 0.9}, (0.5, 50, 0.9, 1.0)),
        ({"temperature": 0.5, "repetition_penalty": 1.1}, (0.0, 0, 1.0, 1.1)),
    ],
)
def test_sampling_of_a_checkpoint_is_read_as_transformers_reads_it(tiny, config, expected):
    write(tiny / "tiny/generation_config.json", config)

    made = resolved(tiny, MINIMAL + "generation: {sampling: checkpoint}\n").generation.sampling

    assert (made.temperature, made.top_k, made.top_p, made.repetition_penalty) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "a.yaml:4: generation.sampling: there is no tiny/generation_config.json; write the options"),
        *(
            (given, f"a.yaml:4: generation.sampling: tiny/generation_config.json: {name}: {value!r} is not supported")
            for given in REFUSED
            for name, value in given.items()
        ),
        ({"unheard_of": 1}, "a.yaml:4: generation.sampling: tiny/generation_config.json: unheard_of: 1 is not known"),
        (
            {"bad_words_ids": [[3], [4, 5]]},
            f"{BESIDE}: bad_words_ids: [4, 5] has several tokens, which is not supported",
        ),
        ({"bad_words_ids": [3]}, f"{BESIDE}: bad_words_ids: must be a list of lists of token ids, got [3]"),
        ({"suppress_tokens": ["a"]}, f"{BESIDE}: suppress_tokens: must be a token id or a list of them, got 'a'"),
        ({"stop_strings": ["", "a"]}, f"{BESIDE}: stop_strings: must be texts that are not empty"),
        ({"stop_strings": "a"}, f"{BESIDE}: stop_strings: need a tokenizer, and the checkpoint has none"),
        ({"do_sample": True, "top_p": 7}, "a.yaml:4: generation.sampling: sampling.top_p: must be between 0 and 1"),
    ],
)
def test_sampling_of_a_checkpoint_that_cannot_be_followed_is_refused(tiny, config, message):
    if config is not None:
        write(tiny / "tiny/generation_config.json", config)

    assert refused(tiny, MINIMAL + "generation: {sampling: checkpoint}\n").startswith(message)


def test_restrictions_of_a_checkpoint_are_read_as_transformers_reads_them(tiny):
    given = {
        "suppress_tokens": [9, 5, 5, -1, 999],
        "begin_suppress_tokens": [7],
        "bad_words_ids": [[3], [2]],  # 2 ends texts
        "stop_strings": ["b", "a", "b"],
        "eos_token_id": 2,
    }
    write(tiny / "tiny/generation_config.json", given)
    write(tiny / "tiny/tokenizer.json", {})

    followed = resolved(tiny, MINIMAL + "generation: {sampling: checkpoint}\n")
    greedy = resolved(tiny, MINIMAL)

    assert followed.generation.restrictions == Restrictions(("b", "a"), (3, 5, 9), (7,))
    assert greedy.generation.restrictions == Restrictions()
    assert sent(followed) == followed


def test_options_without_a_say_in_what_is_drawn_are_passed_over(tiny):
    write(tiny / "tiny/generation_config.json", dict.fromkeys(generation_config._OFF) | INERT)

    made = resolved(tiny, MINIMAL + "generation: {sampling: checkpoint}\n").generation

    assert (made.sampling, made.restrictions) == (SamplingParams(), Restrictions())


@pytest.mark.parametrize(
    ("model", "id"),
    [({"vocab": {"a": 3, "<end>": 21}}, 21), ({"vocab": [["a", 0.0], ["<end>", -1.0]]}, 1), ({"vocab": None}, None)],
)
@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_eos_may_be_named_in_either_file_of_a_tokenizer_and_stand_in_its_vocabulary(tiny, file, model, id):
    write(tiny / "tiny/config.json", {name: v for name, v in CONFIG.items() if not name.endswith("token_id")})
    write(tiny / f"tiny/{file}", {"eos_token": {"content": "<end>"}})
    write(tiny / "tiny/tokenizer.json", {"added_tokens": [{"id": 4, "content": "<other>"}], "model": model})

    assert resolved(tiny, MINIMAL).generation.eos_token_id == (() if id is None else (id,))


def test_eos_may_be_added_by_the_configuration_of_a_tokenizer(tiny):
    write(tiny / "tiny/config.json", {name: v for name, v in CONFIG.items() if not name.endswith("token_id")})
    write(tiny / "tiny/tokenizer_config.json", {"added_tokens_decoder": {"30": {"content": "<end>"}}})
    write(tiny / "tiny/special_tokens_map.json", {"eos_token": "<end>"})
    write(tiny / "tiny/tokenizer.json", {})

    assert resolved(tiny, MINIMAL).generation.eos_token_id == (30,)


@pytest.mark.parametrize(
    ("eos", "given", "remarks"),
    [
        (5, "", ("generation.eos_token_id: 5 by the checkpoint's files, 17 by its tokenizer; say which end texts",)),
        (
            [5, 9],
            "",
            ("generation.eos_token_id: 5, 9 by the checkpoint's files, 17 by its tokenizer; say which end texts",),
        ),
        ([5, 17], "", ()),
        (None, "", ()),
        (5, "generation: {eos_token_id: 5}\n", ()),
        (5, "generation: {eos_token_id: -1}\n", ()),
    ],
)
def test_a_tokenizer_with_another_eos_is_remarked_on_unless_the_manifest_decides(tiny, eos, given, remarks):
    write(tiny / "tiny/config.json", CONFIG | {"eos_token_id": eos})
    write(tiny / "tiny/special_tokens_map.json", {"eos_token": "</s>"})
    write(tiny / "tiny/tokenizer.json", {"added_tokens": [{"id": 17, "content": "</s>"}]})
    made = resolved(tiny, MINIMAL + given)

    assert plan.endings(plan.read_manifest(tiny / "a.yaml"), made) == remarks


def test_numbers_that_json_does_not_have_are_kept_as_transformers_spells_them(tiny):
    odd = {"time_step_limit": [0.0, math.inf], "cap": -math.inf, "nested": {"value": math.nan}}
    write(tiny / "tiny/config.json", CONFIG | odd)

    made = resolved(tiny, MINIMAL)

    assert made.model.config == CONFIG | {
        "time_step_limit": [0.0, {"__float__": "Infinity"}],
        "cap": {"__float__": "-Infinity"},
        "nested": {"value": {"__float__": "NaN"}},
    }
    assert sent(made) == made
    write(tiny / "tiny/config.json", CONFIG | {"rms_norm_eps": math.inf})
    assert "rms_norm_eps: must be a number above 0" in refused(tiny, MINIMAL)


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL + "generatoin: null\n",
        MINIMAL.replace("tiny}", "tiny, dtyp: null}"),
        MINIMAL.replace("64}", "64, batchsize: ~}"),
        MINIMAL + "targets: [{cpu: {isa: avx2, thread:}}]\n",
        MINIMAL + "targets: [{cpu: {}, gpu: null}]\n",
        MINIMAL + "partition: {mash: null}\n",
        MINIMAL + "generation: {sampling: {temprature: null}}\n",
    ],
)
def test_an_unknown_key_is_refused_where_it_is_null_too(tiny, text):
    assert "unknown key" in refused(tiny, text)


def test_a_key_is_there_once_whatever_its_value_and_its_spelling(tiny):
    key = Combo(prefill_length=64, max_length=128).key
    twice = f"generation: {{num_return_sequences: {{{key}: 3, {int(key, 16)}: 2}}}}\n"

    assert "key 'name' is there twice" in refused(tiny, MINIMAL + "name: null\n")
    assert "the same key is there twice" in refused(tiny, MINIMAL + twice)


def test_null_is_the_same_as_leaving_an_option_of_sampling_out(tiny):
    made = resolved(tiny, MINIMAL + "generation: {sampling: {temperature: null, top_k: 5}}\n")

    assert made.generation.sampling == SamplingParams(top_k=5)


def test_tokenizer_defaults_to_that_of_the_checkpoint(tiny):
    without = resolved(tiny, MINIMAL).model.tokenizer
    write(tiny / "tiny/tokenizer.json", {})

    assert without is None
    assert resolved(tiny, MINIMAL).model.tokenizer == (tiny / "tiny").resolve()


def test_dtype_defaults_to_that_of_the_configuration_then_of_the_weights_and_then_to_float32(tiny):
    first = resolved(tiny, MINIMAL).model.dtype
    config = {name: value for name, value in CONFIG.items() if name != "torch_dtype"}
    write(tiny / "tiny/config.json", config)
    without = resolved(tiny, MINIMAL).model.dtype
    shapes = family.read_model_config(config).stored()
    numpy.save_file({name: np.zeros(s, np.float16) for name, s in shapes.items()}, tiny / "tiny/model.safetensors")

    assert (first, without) == ("bfloat16", "float32")
    assert resolved(tiny, MINIMAL).model.dtype == "float16"
    assert resolved(tiny, MINIMAL.replace("tiny}", "tiny, dtype: float32}")).model.dtype == "float32"


def test_number_of_sequences_is_given_for_the_key_of_every_combo(tiny):
    key = Combo(prefill_length=64, max_length=128).key
    text = MINIMAL.replace("64", "[64, 128]")

    by_hex = resolved(tiny, text + f"generation: {{num_return_sequences: {{{key}: 3}}}}\n").generation
    by_int = resolved(tiny, text + f"generation: {{num_return_sequences: {{{int(key, 16)}: 3}}}}\n").generation
    digits = resolved(tiny, text + f"generation: {{num_return_sequences: {{'{key[:12]}': 3}}}}\n").generation

    other = Combo(prefill_length=128, max_length=192).key
    assert by_hex.num_return_sequences == by_int.num_return_sequences == {key: 3, other: 1}
    assert digits == by_hex
    twice = refused(tiny, text + f"generation: {{num_return_sequences: {{'{key}': 3, '{key[:12]}': 2}}}}\n")
    assert "is given twice" in twice


def test_headers_of_weight_files_are_checked_and_blamed_on_the_checkpoint(tiny):
    numpy.save_file({"surplus": np.zeros(3, np.float32)}, tiny / "tiny/model.safetensors")

    faults = refused(tiny, MINIMAL).splitlines()

    assert all(fault.startswith("a.yaml:2: model.checkpoint: ") for fault in faults)
    assert any("surplus" in fault for fault in faults)


def test_max_length_may_reach_the_models_positions(tiny):
    positions = CONFIG["max_position_embeddings"]

    assert resolved(tiny, MINIMAL.replace("64", str(positions - 64))).combos[0].max_length == positions
    assert "beyond the model's 8192 positions" in refused(tiny, MINIMAL.replace("64", str(positions - 63)))


def test_orbax_takes_its_configuration_from_the_manifest(tiny):
    (tiny / "saved").mkdir()
    (tiny / "saved/_METADATA").write_text("{}")
    text = MINIMAL.replace("tiny", "saved")

    without = refused(tiny, text)
    unreadable = refused(tiny, text.replace("saved", "saved, config: nowhere.json"))

    assert without.startswith("a.yaml:2: model.config: is missing, and the Orbax checkpoint saved has none")
    assert unreadable.startswith("a.yaml:2: model.config: nowhere.json is no file")


def test_waste_names_the_gap_and_the_buckets_that_close_it(tiny):
    made = resolved(tiny, MINIMAL.replace("64", "[64, 512]"))

    (remark,) = plan.waste(made)
    closed = resolved(tiny, MINIMAL.replace("64", "[64, 128, 256, 512]"))

    assert remark == (
        "prefill_length: requests of 65 to 255 tokens are padded to 512, more than 2x; "
        "add 128, 256 to precompile.prefill_length"
    )
    assert plan.waste(closed) == ()


@pytest.mark.parametrize("upper", range(2, 40))
def test_waste_counts_exactly_the_sizes_padded_more_than_twice(tiny, upper):
    made = resolved(tiny, MINIMAL.replace("{prefill", f"{{expand: product, batch_size: [1, {upper}], prefill"))

    wasted = [size for size in range(2, upper) if upper / size > 2]
    words = f" {wasted[0]} to {wasted[-1]} rows" if len(wasted) > 1 else f" {wasted[0]} rows" if wasted else ""
    assert words in "".join(plan.waste(made))
    assert bool(plan.waste(made)) == bool(wasted)


def test_a_quantized_plan_tells_the_bytes_of_its_weights(tiny):
    made = resolved(tiny, MINIMAL.replace("tiny}", "tiny, dtype: bfloat16, quantization: int8}"))
    plain = resolved(tiny, MINIMAL.replace("tiny}", "tiny, dtype: bfloat16}"))

    found, wide = plan.weight_bytes(made), plan.weight_bytes(plain)

    assert (set(found), set(wide)) == ({"int8", "float32", "bfloat16"}, {"bfloat16"})
    assert 2 * found["int8"] + found["bfloat16"] == wide["bfloat16"]


def test_a_target_has_its_own_mesh_or_that_of_the_partition(tiny):
    partition = "partition: {mesh: {data: 2, model: 1}, axes: {batch: data}}\n"
    targets = "targets: [cpu: {}, cpu: {mesh: {data: 4}}, cpu: {mesh: {data: 1}}, tpu: {topology: 'v5e:2x2'}]\n"

    made = resolved(tiny, MINIMAL + partition + targets)

    assert [target.mesh for target in made.targets] == [
        {"data": 2, "model": 1},
        {"data": 4},
        {},
        {"data": 2, "model": 1},
    ]


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("cpu: {devices: 2}", "cpu.devices: has 2 devices, the mesh data 4 needs 4"),
        ("tpu: {topology: 'v5e:1x2'}", "tpu.topology: has 2 devices, the mesh data 4 needs 4"),
        ("cuda: {device: h200, devices: 4, mesh: {data: 8}}", "cuda.devices: has 4 devices, the mesh data 8 needs 8"),
    ],
)
def test_a_target_with_fewer_devices_than_its_mesh_is_refused_with_both_numbers(tiny, target, fault):
    with pytest.raises(ManifestError, match=re.escape(fault)):
        resolved(tiny, MINIMAL + f"partition: {{mesh: {{data: 4}}, axes: {{batch: data}}}}\ntargets: [{target}]\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.yaml:1: must be a mapping with the keys name, model and precompile, got nothing"),
        ("- a\n", "a.yaml:1: must be a mapping with the keys name, model and precompile, got a list"),
        ("a: " + "[" * 5000, "a.yaml: is nested too deeply; write it flatter"),
        ("a: " + "[" * 60 + "]" * 60, "a.yaml: is nested too deeply; write it flatter"),
        ("a: " + "9" * 5000, "a.yaml:1: 99999999999999999999… is too large for a number; quote it, if text is meant"),
        ("a: 1e999\n", "a.yaml:1: 1e999… is too large for a number; quote it, if text is meant"),
        ("a: !!python/object/apply:os.getcwd []\n", "a.yaml:1: not YAML: tag 'tag:yaml.org,2002:python/object/apply:"),
        ("a: \x01\n", "a.yaml: not YAML: unacceptable character"),
        ("a: 1\n---\nb: 1\n", "a.yaml:2: not YAML: expected a single document in the stream"),
        ("? [a]\n: 1\n", "a.yaml:1: a key must be text, got a list or a mapping; quote it"),
        ("true: 1\n", "a.yaml:1: a key must be text, got 'true'; quote it"),
    ],
)
def test_text_that_is_no_manifest_is_refused_in_a_line(tmp_path, text, message):
    error = refused(tmp_path, text)

    assert error.startswith(message)
    assert "\n" not in error


def test_a_file_that_cannot_be_read_is_refused_in_a_line(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")

    for name, message in (
        ("latin.yaml", "is not UTF-8 at byte 6"),
        ("none.yaml", "No such file"),
        (".", "Is a directory"),
    ):
        with pytest.raises(ManifestError, match=message):
            plan.read_manifest(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("'no'", "no"),
        ("~", None),
        ("1", 1),
        ("-1", -1),
        ("0x1F", 31),
        ("1.5e3", 1500.0),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("=", "="),
    ],
)
def test_scalars_are_read_as_yaml_1_2_reads_them(text, value):
    read = yaml.load(f"a: {text}\n", "a.yaml").data["a"]

    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize("text", ["no", "Yes", "on", "OFF", "True", "NULL", "017", ".inf", "-.NaN"])
def test_scalars_that_yaml_versions_read_differently_must_be_quoted(text):
    with pytest.raises(ManifestError, match=r"^a\.yaml:1: .* is read differently by different programs; quote it"):
        yaml.load(f"a: {text}\n", "a.yaml")


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "config.json"])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": ' + "[" * 900 + "]" * 900 + "}", '{"a":' * 5000 + "1" + "}" * 5000]
)
def test_a_file_that_is_nested_without_end_is_named(tiny, name, text):
    if name == "tokenizer_config.json":
        write(tiny / "tiny/config.json", {key: v for key, v in CONFIG.items() if not key.endswith("token_id")})
        write(tiny / "tiny/tokenizer.json", {"added_tokens": []})
    (tiny / "tiny" / name).write_text(text)

    with pytest.raises(ManifestError, match=name):
        resolved(tiny, MINIMAL)


def test_a_factory_below_a_name_that_is_no_text_is_refused_before_jax_ends_in_it(tmp_path):
    home = tmp_path / os.fsdecode(b"q\xff")
    home.mkdir()
    (home / "own.yaml").write_text('name: own\nmodel: {factory: "own:make"}\nprecompile: {batch_size: 1}\n')
    with pytest.raises(ManifestError, match=r"model\.factory: lies below '.*q\\udcff', a name that is not UTF-8"):
        plan.resolve(plan.read_manifest(home / "own.yaml"))
