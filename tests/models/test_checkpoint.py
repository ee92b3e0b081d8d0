import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from oracles import records, values
from safetensors.numpy import load_file, save_file

from aot.errors import InputError
from aot.models.checkpoints import arrays, checkpoint
from aot.models.families import names
from aot.models.families.config import DecoderConfig

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
VARIANTS = ("llama", "mistral", "qwen2", "qwen3")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    save("plain", tmp_path / "llama")
    return tmp_path / "llama"


def save(name: str, directory: Path, sharded: bool = False) -> records.Case:
    """Writes a checkpoint as transformers does, and gives its record."""
    oracle = records.read(f"saved/{name}")
    oracle.write(directory, sharded)
    return oracle


def load(directory: Path, dtype: str = "float32") -> dict[str, np.ndarray[Any, Any]]:
    return dict(checkpoint.checkpoint_tensors(directory, checkpoint.read_config(directory), dtype))


def rewrite(directory: Path, **changes: np.ndarray[Any, Any] | None) -> None:
    """Adds, replaces or removes (None) tensors; `__` in a name stands for a dot."""
    file = directory / checkpoint.SINGLE
    tensors = load_file(file) | {name.replace("__", "."): value for name, value in changes.items()}
    save_file({name: value for name, value in tensors.items() if value is not None}, file)


def fault(directory: Path) -> str:
    """The message of `check`, which `tensors` must give as well, before its first tensor."""
    config = checkpoint.read_config(directory)
    with pytest.raises(InputError) as planned:
        checkpoint.check_checkpoint(directory, config, "float32")
    with pytest.raises(InputError) as built:
        checkpoint.checkpoint_tensors(directory, config, "float32")
    assert str(planned.value) == str(built.value)
    return str(planned.value)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_has_the_values_that_transformers_saved(name: str, sharded: bool, tmp_path: Path) -> None:
    oracle = save(name, tmp_path, sharded)
    checkpoint.check_checkpoint(tmp_path, checkpoint.read_config(tmp_path), "float32")
    loaded = load(tmp_path)

    assert (tmp_path / checkpoint.SHARDED).exists() == sharded
    assert list(loaded) == list(
        names.parameter_shapes(DecoderConfig.from_huggingface(checkpoint.read_config(tmp_path)))
    )
    state = dict(oracle.modules)
    for path, array in loaded.items():
        np.testing.assert_array_equal(array, state.pop(names.huggingface_name(path)))
    assert state == {}
    assert oracle.made.get("tied", []) == (["lm_head.weight"] if name == "qwen2" else [])


@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@np.errstate(invalid="ignore")  # of NaNs that signal
def test_dtypes_are_converted_as_torch_does(stored: str, wanted: str, tmp_path: Path) -> None:
    given, converted = conversion(stored, wanted)
    finite = np.isfinite(given) <= np.isfinite(converted)
    fields = SIZES | {"vocab_size": int(finite.sum()), "hidden_size": 1, "num_attention_heads": 1, "head_dim": 2}
    config = fields | {"num_key_value_heads": 1, "tie_word_embeddings": True, "model_type": "llama"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shapes = names.parameter_shapes(DecoderConfig.from_huggingface(config))
    tensors = {names.huggingface_name(path): np.ones(shape, given.dtype) for path, shape in shapes.items()}
    save_file(tensors | {"model.embed_tokens.weight": given[finite][:, None]}, tmp_path / checkpoint.SINGLE)

    loaded = load(tmp_path, wanted)

    assert {array.dtype.name for array in loaded.values()} == {wanted}
    found = loaded["embed/tokens"][:, 0]
    assert np.isnan(found).tolist() == np.isnan(converted[finite]).tolist()
    numbers = ~np.isnan(found)
    assert found[numbers].tobytes() == converted[finite][numbers].tobytes()
    for value in given[~finite]:  # which torch makes infinite
        with pytest.raises(InputError, match="holds values too large"):
            arrays.cast_tensor(value[None], arrays.weight_dtype(wanted), "here")


def conversion(stored: str, wanted: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Floats of one dtype, ties and subnormals among them, and what torch makes of them in another."""
    oracle = records.read("conversions")
    bits = values.patterns(**oracle.given["conversions"][stored])
    return bits.view(arrays.weight_dtype(stored)), oracle.arrays[f"{stored}/{wanted}"].view(arrays.weight_dtype(wanted))


def test_a_value_too_large_for_the_wanted_dtype_is_an_error(llama: Path) -> None:
    rewrite(llama, model__norm__weight=np.full((32,), 1e6, np.float32))

    load(llama, "bfloat16")
    with pytest.raises(InputError, match=r"'model\.norm\.weight': holds values too large for float16"):
        load(llama, "float16")


def test_an_unknown_dtype_is_an_error(llama: Path) -> None:
    with pytest.raises(InputError, match="must be one of float32, bfloat16, float16, got 'float64'"):
        checkpoint.check_checkpoint(llama, checkpoint.read_config(llama), "float64")


def test_links_are_followed(llama: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for file in llama.iterdir():
        (links / file.name).symlink_to(file)

    assert load(links).keys() == load(llama).keys()


def test_missing_surplus_and_misshapen_tensors_are_all_named(llama: Path) -> None:
    rewrite(
        llama,
        model__norm__weight=None,
        model__layers__9__extra=np.zeros(1, np.float32),
        lm_head__weight=np.zeros((96, 31), np.float32),
        model__embed_tokens__weight=np.zeros((96, 32), np.int8),
    )
    lines = fault(llama).splitlines()

    assert lines == [
        f"checkpoint {llama}: tensor 'model.norm.weight' is missing",
        f"checkpoint {llama}: tensor 'model.layers.9.extra' is not used by the model",
        f"checkpoint {llama}: tensor 'lm_head.weight' has shape [96, 31], the configuration asks for [96, 32]",
        f"checkpoint {llama}: tensor 'model.embed_tokens.weight' is stored as I8, which is not one of "
        "BF16, F16, F32, F64",
    ]


def test_a_long_list_of_faults_is_cut_with_a_count(llama: Path) -> None:
    rewrite(llama, **{f"extra{i:02}": np.zeros(1, np.float32) for i in range(30)})
    lines = fault(llama).splitlines()

    assert len(lines) == 9
    assert lines[-1] == f"checkpoint {llama}: unused tensors: 22 more"


def test_stored_rotary_frequencies_are_ignored(llama: Path) -> None:
    rewrite(llama, model__layers__0__self_attn__rotary_emb__inv_freq=np.zeros(4, np.float32))

    assert "head/norm" in load(llama)


def test_a_tied_head_is_accepted_only_with_the_bytes_of_the_embedding(tmp_path: Path) -> None:
    save("qwen2", tmp_path)
    embedding = load_file(tmp_path / checkpoint.SINGLE)["model.embed_tokens.weight"]
    rewrite(tmp_path, lm_head__weight=embedding.copy())
    assert "head/output" not in load(tmp_path)

    embedding[95, 31] += 1
    rewrite(tmp_path, lm_head__weight=embedding)
    checkpoint.check_checkpoint(tmp_path, checkpoint.read_config(tmp_path), "float32")
    with pytest.raises(InputError, match=r"'lm_head\.weight' differs from 'model\.embed_tokens\.weight'"):
        load(tmp_path)


def test_a_tied_checkpoint_may_hold_the_head_alone(tmp_path: Path) -> None:
    save("qwen2", tmp_path)
    whole = load(tmp_path)
    embedding = load_file(tmp_path / checkpoint.SINGLE)["model.embed_tokens.weight"]
    rewrite(tmp_path, lm_head__weight=embedding.copy(), model__embed_tokens__weight=None)
    checkpoint.check_checkpoint(tmp_path, checkpoint.read_config(tmp_path), "float32")
    headed = load(tmp_path)

    assert list(headed) == list(whole)
    np.testing.assert_array_equal(headed["embed/tokens"], embedding)
    rewrite(tmp_path, lm_head__weight=embedding[:, 1:].copy())
    assert "tensor 'lm_head.weight' has shape [96, 31], the configuration asks for [96, 32]" in fault(tmp_path)


def test_without_ties_the_head_is_no_embedding(llama: Path) -> None:
    rewrite(llama, model__embed_tokens__weight=None)

    assert "tensor 'model.embed_tokens.weight' is missing" in fault(llama)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors"]
)
def test_an_adapter_is_refused_by_name_beside_weights_and_alone(llama: Path, name: str) -> None:
    (llama / name).touch()
    words = (
        f"has {name}, an adapter .* merge it with peft \\(merge_and_unload, then save_pretrained\\), or move it away"
    )
    with pytest.raises(InputError, match=words):
        checkpoint.checkpoint_kind(llama)

    for file in list(llama.iterdir()):
        if file.name != name:
            file.unlink()
    with pytest.raises(InputError, match=words):
        checkpoint.checkpoint_kind(llama)


@pytest.mark.parametrize("sharded", [False, True])
def test_the_dtype_of_a_checkpoint_is_that_of_most_of_its_weights(sharded: bool, tmp_path: Path) -> None:
    save("plain", tmp_path, sharded)
    found = [checkpoint.checkpoint_dtype(tmp_path)]
    for dtype in (ml_dtypes.bfloat16, np.float16, np.float64):
        for file in tmp_path.glob("*.safetensors"):
            norm = {name: array for name, array in load_file(file).items() if "norm" in name}
            save_file({name: array.astype(dtype) for name, array in load_file(file).items()} | norm, file)
        found.append(checkpoint.checkpoint_dtype(tmp_path))

    assert found == ["float32", "bfloat16", "float16", "float32"]
    for file in [*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.index.json")]:
        file.unlink()
    assert checkpoint.checkpoint_dtype(tmp_path) is None


def test_a_checkpoint_without_weights_can_be_planned_but_not_loaded(llama: Path) -> None:
    (llama / checkpoint.SINGLE).unlink()
    (llama / "training_args.bin").touch()
    checkpoint.check_checkpoint(llama, checkpoint.read_config(llama), "float32")

    with pytest.raises(InputError, match="holds no weights"):
        load(llama)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pt"])
def test_pickles_are_never_read(llama: Path, name: str) -> None:
    (llama / checkpoint.SINGLE).rename(llama / name)

    assert f"only in '{name}', and pickle files are never read" in fault(llama)
    assert "save_pretrained" in fault(llama)


def header(entries: dict[str, tuple[int, int]]) -> bytes:
    table = {name: {"dtype": "U8", "shape": [b - a], "data_offsets": [a, b]} for name, (a, b) in entries.items()}
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:5],
        lambda data: b"",
        lambda data: struct.pack("<Q", 1 << 60) + data[8:],
        lambda data: data[:8] + b"[" + data[9:],
        lambda data: header({"a": (0, 8), "b": (4, 12)}) + bytes(12),
        lambda data: header({"a": (0, 4), "b": (8, 12)}) + bytes(12),
    ],
    ids=["short", "long", "stub", "empty", "huge header", "no JSON", "overlap", "hole"],
)
def test_a_damaged_file_is_an_error_with_its_name(llama: Path, damage: Any) -> None:
    file = llama / checkpoint.SINGLE
    file.write_bytes(damage(file.read_bytes()))

    assert fault(llama).startswith(f"{file}: is damaged or no safetensors file: ")
    assert "\n" not in fault(llama)


def test_a_file_cut_while_it_is_read_is_an_error(llama: Path) -> None:
    stream = checkpoint.checkpoint_tensors(llama, checkpoint.read_config(llama), "float32")
    os.truncate(llama / checkpoint.SINGLE, 2000)

    with pytest.raises(InputError, match="ends inside tensor"):
        list(stream)


@pytest.mark.parametrize("name", ["../model.safetensors", "/model.safetensors", "a/b.safetensors", "x.bin", 7, ["y"]])
def test_an_index_names_only_safetensors_files_beside_it(name: Any, tmp_path: Path) -> None:
    save("plain", tmp_path, sharded=True)
    index = tmp_path / checkpoint.SHARDED
    table = json.loads(index.read_text())
    table["weight_map"]["model.norm.weight"] = name
    index.write_text(json.dumps(table))

    assert "is not the name of a safetensors file beside it" in fault(tmp_path)


def test_a_shard_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    save("plain", tmp_path, sharded=True)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()

    assert f"weight_map: {shard.name!r} does not exist" in fault(tmp_path)


def test_an_index_and_its_shards_agree(tmp_path: Path) -> None:
    save("plain", tmp_path, sharded=True)
    index = tmp_path / checkpoint.SHARDED
    table = json.loads(index.read_text())
    file = table["weight_map"].pop("model.norm.weight")
    index.write_text(json.dumps(table))
    assert f"tensor 'model.norm.weight' is, unlisted, in {file!r}" in fault(tmp_path)

    table["weight_map"] |= {"model.norm.weight": file, "phantom": file}
    index.write_text(json.dumps(table))
    assert f"tensor 'phantom' is not in {file!r}" in fault(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100000, "\udcff"])
def test_a_config_that_is_no_json_object_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, errors="surrogateescape")

    with pytest.raises(InputError, match=r"config\.json: (is not JSON|must hold a JSON object)"):
        checkpoint.read_config(tmp_path)


def test_a_checkpoint_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for function in (checkpoint.checkpoint_kind, checkpoint.read_config):
        with pytest.raises(InputError, match="No such file or directory"):
            function(tmp_path / "nothing")
        with pytest.raises(InputError, match="Not a directory"):
            function(tmp_path / "file")
    with pytest.raises(InputError, match=r"config\.json: No such file"):
        checkpoint.read_config(tmp_path)
    with pytest.raises(InputError, match=r"neither config\.json nor an Orbax checkpoint"):
        checkpoint.checkpoint_kind(tmp_path)


def test_shards_without_their_index_are_an_error(tmp_path: Path) -> None:
    save("plain", tmp_path, sharded=True)
    (tmp_path / checkpoint.SHARDED).unlink()

    assert checkpoint.checkpoint_kind(tmp_path) == "huggingface"
    assert f"neither {checkpoint.SINGLE} nor {checkpoint.SHARDED}" in fault(tmp_path)


MEASURE = """
import sys
from pathlib import Path
from aot.models.checkpoints import arrays, checkpoint

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) << 10

directory = Path(sys.argv[1])
config = checkpoint.read_config(directory)
narrow = arrays.weight_dtype("bfloat16")
arrays.cast_tensor(arrays.np.ones(1 << 20, "f4"), narrow, "")  # what numpy loads at its first cast
start, total = peak(), 0
for path, array in checkpoint.checkpoint_tensors(directory, config, sys.argv[2]):
    total += array.nbytes
    array.sum()
    del array
assert "jax" not in sys.modules
print(peak() - start, total)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peak_memory_stays_near_the_largest_tensor(dtype: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 4096, "vocab_size": 4096, "num_hidden_layers": 13}
    config = SIZES | sizes | {"model_type": "llama", "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    hollow(tmp_path / checkpoint.SINGLE, DecoderConfig.from_huggingface(config))
    largest = 4096 * 512 * np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype).itemsize
    command = [sys.executable, "-c", MEASURE, str(tmp_path), dtype]
    result = subprocess.run(command, capture_output=True, text=True, check=True)

    peak, total = map(int, result.stdout.split())
    assert total > 40 * largest
    assert peak < largest + (6 << 20)


def hollow(file: Path, config: DecoderConfig) -> None:
    """Writes float32 zeros for each parameter, as a sparse file."""
    table, end = {}, 0
    for path, shape in names.parameter_shapes(config).items():
        start, end = end, end + 4 * int(np.prod(shape))
        table[names.huggingface_name(path)] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(table).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(file, 8 + len(text) + end)


def test_tensors_larger_than_a_piece_are_read_whole(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).standard_normal((3, 700_001)).astype(np.float32)
    save_file({"first": np.zeros(3, np.float32), "second": whole}, tmp_path / "x.safetensors")
    stored = arrays.read_header(tmp_path / "x.safetensors")["second"]

    np.testing.assert_array_equal(arrays.read_tensor(stored, "float32"), whole)
    np.testing.assert_array_equal(arrays.read_tensor(stored, "bfloat16"), whole.astype(ml_dtypes.bfloat16))
    copy = shutil.copy(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert arrays.are_same_tensors(stored, arrays.read_header(Path(copy))["second"])
