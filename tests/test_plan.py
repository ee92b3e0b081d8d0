import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors import numpy

from aot import plan
from aot.errors import ManifestError
from aot.plan import Plan, yaml
from aot.precompile import Combo

CASES = Path(__file__).parent / "cases"
CONFIG = json.loads((CASES / "checkpoint/config.json").read_text())
MINIMAL = "name: a\nmodel: {checkpoint: tiny}\nprecompile: {prefill_length: 64}\n"


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
    return plan.resolve(plan.read(directory / "a.yaml"))


def refused(directory: Path, text: str) -> str:
    with pytest.raises(ManifestError) as caught:
        resolved(directory, text)
    return str(caught.value).replace(f"{directory}/", "")


def shown(made: Plan) -> str:
    """What a plan says, as a text that differs where the plan does."""
    plain = json.loads(made.to_json())
    for name in ("checkpoint", "directory", "config", "preprocessor"):
        del plain["model"][name]
    combos = [
        " ".join([combo.key, *(f"{k}={v}" for k, v in combo.dimensions().items() if v not in (None, False))])
        for combo in made.combos
    ]
    fields = [f"{name}: {json.dumps(value)}" for name, value in sorted(plain.items()) if name != "combos"]
    return "\n".join([*combos, *fields, *plan.waste(made)]) + "\n"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in CASES.glob("*/plan.txt")))
def test_plan_is_as_recorded(name, monkeypatch):
    monkeypatch.chdir(CASES / name)

    made = plan.resolve(plan.read(Path("manifest.yaml")))

    assert shown(made) == Path("plan.txt").read_text()


@pytest.mark.parametrize("name", sorted(path.parent.name for path in CASES.glob("*/error.txt")))
def test_faults_are_as_recorded(name, monkeypatch):
    monkeypatch.chdir(CASES / name)

    with pytest.raises(ManifestError) as caught:
        plan.resolve(plan.read(Path("manifest.yaml")))

    assert f"{caught.value}\n" == Path("error.txt").read_text()


def test_every_case_is_run():
    cases = {path.parent for path in CASES.glob("*/manifest.yaml")}

    assert {case for case in cases if (case / "plan.txt").exists() != (case / "error.txt").exists()} == cases


@pytest.mark.parametrize("name", sorted(path.parent.name for path in CASES.glob("*/plan.txt")))
def test_json_of_a_plan_loses_nothing(name):
    made = plan.resolve(plan.read(CASES / name / "manifest.yaml"))

    copy = Plan.from_json(made.to_json())

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

    (case,) = [combo for combo in plan.resolve(plan.read(CASES / "zip/manifest.yaml")).combos if combo.batch_size == 8]

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

    made = plan.resolve(plan.read(tiny / "a.yaml"))

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
        ({"num_beams": 4}, "a.yaml:4: generation.sampling: tiny/generation_config.json: num_beams: 4 is not supported"),
        ({"do_sample": True, "top_p": 7}, "a.yaml:4: generation.sampling: sampling.top_p: must be above 0"),
    ],
)
def test_sampling_of_a_checkpoint_that_cannot_be_followed_is_refused(tiny, config, message):
    if config is not None:
        write(tiny / "tiny/generation_config.json", config)

    assert refused(tiny, MINIMAL + "generation: {sampling: checkpoint}\n").startswith(message)


def test_tokenizer_defaults_to_that_of_the_checkpoint(tiny):
    without = resolved(tiny, MINIMAL).model.tokenizer
    write(tiny / "tiny/tokenizer.json", {})

    assert without is None
    assert resolved(tiny, MINIMAL).model.tokenizer == (tiny / "tiny").resolve()


def test_dtype_defaults_to_that_of_the_checkpoint_and_then_to_float32(tiny):
    first = resolved(tiny, MINIMAL).model.dtype
    write(tiny / "tiny/config.json", {name: value for name, value in CONFIG.items() if name != "torch_dtype"})

    assert first == "bfloat16"
    assert resolved(tiny, MINIMAL).model.dtype == "float32"


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

    found, wide = plan.stored(made), plan.stored(plain)

    assert (set(found), set(wide)) == ({"int8", "float32", "bfloat16"}, {"bfloat16"})
    assert 2 * found["int8"] + found["bfloat16"] == wide["bfloat16"]


def test_a_target_has_its_own_mesh_or_that_of_the_partition(tiny):
    partition = "partition: {mesh: {data: 2, model: 1}, axes: {batch: data}}\n"
    targets = "targets: [cpu: {}, cpu: {mesh: {data: 4}}, cpu: {mesh: {data: 1}}, tpu: {topology: 'v5e:2x2'}]\n"

    made = resolved(tiny, MINIMAL + partition + targets)

    assert [next(iter(target.values())).get("mesh") for target in made.targets] == [
        {"data": 2, "model": 1},
        {"data": 4},
        None,
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
            plan.read(tmp_path / name)


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
