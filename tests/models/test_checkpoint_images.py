"""Checkpoints of models that see, as transformers writes them and as they are published."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import records
from oracles.records import Case
from prefills import weights_of
from processors import LLAVA, QWEN2_VL
from safetensors.numpy import load_file, save_file

from aot.errors import InputError
from aot.models.checkpoints import checkpoint
from aot.models.families import family

PROCESSORS = {"llava": LLAVA, "qwen2_vl": QWEN2_VL}
EARLY = {"tie_word_embeddings": True, "multimodal_projector_bias": False, "vision_feature_layer": 1}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llava/plain", {"tie_word_embeddings": False, "multimodal_projector_bias": True, "vision_feature_layer": -2}),
    ("llava/early", EARLY),
    ("llava/qwen2", {"tie_word_embeddings": False}),
    ("qwen2_vl/plain", {"tie_word_embeddings": False}),
    ("qwen2_vl/tied", {"tie_word_embeddings": True}),
]

# From the names in a module of transformers 5 to those of older releases, and of checkpoints as they are published.
OLDER: dict[str, list[list[tuple[str, str]]]] = {
    "llava": [
        [],
        [
            (r"^model\.language_model\.", "language_model.model."),
            (r"^lm_head\.", "language_model.lm_head."),
            (r"^model\.vision_tower\.", "vision_tower.vision_model."),
            (r"^model\.multi_modal_projector\.", "multi_modal_projector."),
        ],
        [(r"^model\.vision_tower\.", "model.vision_tower.vision_model.")],
    ],
    "qwen2_vl": [
        [],
        [(r"^model\.language_model\.", "model."), (r"^model\.visual\.", "visual.")],
    ],
}


def saved(name: str, directory: Path, sharded: bool = False) -> Case:
    """Writes a checkpoint as transformers does, and gives its record."""
    oracle = records.read(name)
    oracle.write(directory, sharded)
    (directory / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[name.partition("/")[0]]))
    return oracle


def config_of(directory: Path) -> family.ModelConfig:
    preprocessor = json.loads((directory / "preprocessor_config.json").read_text())
    return family.read_model_config(checkpoint.read_config(directory), preprocessor)


def loaded(directory: Path) -> dict[str, Any]:
    config = config_of(directory)
    checkpoint.check_checkpoint(directory, config, "float32")
    return dict(checkpoint.checkpoint_tensors(directory, config, "float32"))


def rewrite(directory: Path, spelling: Any = (), **changes: Any) -> None:
    """Renames tensors by patterns; adds, replaces or removes (None) some, `__` in a name standing for a dot."""
    file = directory / checkpoint.SINGLE
    tensors: dict[str, Any] = dict(load_file(file))
    tensors |= {name.replace("__", "."): value for name, value in changes.items()}
    made = {}
    for name, value in tensors.items():
        for pattern, replacement in spelling:
            name = re.sub(pattern, replacement, name)
        if value is not None:
            made[name] = value
    save_file(made, file)


def fault(directory: Path) -> list[str]:
    """The lines of `check`, which `tensors` must give as well, without the directory that each names."""
    with pytest.raises(InputError) as planned:
        checkpoint.check_checkpoint(directory, config_of(directory), "float32")
    with pytest.raises(InputError) as built:
        checkpoint.checkpoint_tensors(directory, config_of(directory), "float32")
    assert str(planned.value) == str(built.value)
    return [line.removeprefix(f"checkpoint {directory}: ") for line in str(planned.value).splitlines()]


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert list(found) == list(wanted)
    for path, array in found.items():
        np.testing.assert_array_equal(array, wanted[path])


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(("name", "fields"), VARIANTS)
def test_every_parameter_has_the_values_that_transformers_saved(
    name: str, fields: dict[str, Any], sharded: bool, tmp_path: Path
) -> None:
    oracle = saved(name, tmp_path, sharded)

    assert oracle.config | fields == oracle.config
    assert (tmp_path / checkpoint.SHARDED).exists() == sharded
    found = loaded(tmp_path)
    assert_same(found, weights_of(oracle, config_of(tmp_path)))
    taken = {name: array for name, array in oracle.tensors.items() if name not in unused(oracle)}
    assert sum(array.size for array in found.values()) == sum(array.size for array in taken.values())


def unused(oracle: Case) -> list[str]:
    """Tensors of a LLaVA that come after the layer whose features are taken."""
    if "vision_feature_layer" not in oracle.config:
        return []
    layer, layers = oracle.config["vision_feature_layer"], oracle.config["vision_config"]["num_hidden_layers"]
    after = range(layer if layer >= 0 else layers + 1 + layer, layers)
    begins = ("vision_tower.post_layernorm.", *(f"vision_tower.encoder.layers.{each}." for each in after))
    found = [name for name in oracle.tensors if name.startswith(begins)]
    assert found
    return found


@pytest.mark.parametrize(("name", "spelling"), [(name, each) for name, all in OLDER.items() for each in all])
def test_older_names_of_tensors_mean_the_same(name: str, spelling: Any, tmp_path: Path) -> None:
    oracle = saved(f"{name}/plain", tmp_path)
    names = oracle.modules
    save_file(names, tmp_path / checkpoint.SINGLE)

    rewrite(tmp_path, spelling)

    assert set(load_file(tmp_path / checkpoint.SINGLE)) & set(names) != set(names) or not spelling
    assert_same(loaded(tmp_path), weights_of(oracle, config_of(tmp_path)))


def test_what_takes_no_part_in_the_features_may_be_left_out_and_what_else_is_there_is_refused(tmp_path: Path) -> None:
    oracle = saved("llava/plain", tmp_path)
    last = {f"vision_tower__encoder__layers__2__self_attn__{p}_proj__weight": None for p in "qkv"}
    rewrite(tmp_path, vision_tower__post_layernorm__weight=None, **last)
    rewrite(tmp_path, vision_tower__embeddings__position_ids=np.zeros((1, 17), np.int64))
    assert_same(loaded(tmp_path), weights_of(oracle, config_of(tmp_path)))

    surplus = [f"vision_tower__{place}__x" for place in ("encoder__layers__1", "encoder__layers__3", "text")]
    rewrite(tmp_path, **{name: np.zeros(1, np.float32) for name in surplus})

    assert fault(tmp_path) == [
        "tensor 'vision_tower.encoder.layers.1.x' is not used by the model",
        "tensor 'vision_tower.encoder.layers.3.x' is not used by the model",
        "tensor 'vision_tower.text.x' is not used by the model",
    ]


def test_missing_surplus_and_misshapen_tensors_are_named_as_in_the_file(tmp_path: Path) -> None:
    saved("llava/plain", tmp_path)
    rewrite(tmp_path, OLDER["llava"][1])
    rewrite(tmp_path, [(r"^vision_tower\.(?!vision_model)", "vision_tower.vision_model.")])
    rewrite(
        tmp_path,
        multi_modal_projector__linear_1__bias=None,
        vision_tower__vision_model__embeddings__class_embedding=np.zeros(31, np.float32),
        vision_tower__vision_model__embeddings__extra=np.zeros(1, np.float32),
        language_model__model__norm__weight=np.zeros(64, np.int8),
    )

    assert fault(tmp_path) == [
        "tensor 'multi_modal_projector.linear_1.bias' is missing",
        "tensor 'vision_tower.vision_model.embeddings.extra' is not used by the model",
        "tensor 'vision_tower.vision_model.embeddings.class_embedding' has shape [31], the configuration asks for [32]",
        "tensor 'language_model.model.norm.weight' is stored as I8, which is not one of BF16, F16, F32, F64",
    ]


@pytest.mark.parametrize(
    ("name", "kernel", "shape"),
    [
        ("llava", "vision_tower.embeddings.patch_embedding.weight", [32, 3, 4, 4]),
        ("qwen2_vl", "visual.patch_embed.proj.weight", [32, 3, 2, 4, 4]),
    ],
)
def test_a_kernel_with_its_axes_in_another_order_is_misshapen(
    name: str, kernel: str, shape: list[int], tmp_path: Path
) -> None:
    saved(f"{name}/plain", tmp_path)
    moved = [shape[0], *reversed(shape[1:])]
    rewrite(tmp_path, **{kernel.replace(".", "__"): np.zeros(moved, np.float32)})

    assert fault(tmp_path) == [f"tensor {kernel!r} has shape {moved}, the configuration asks for {shape}"]


def test_a_matrix_of_more_axes_than_two_is_misshapen(tmp_path: Path) -> None:
    saved("llava/plain", tmp_path)
    rewrite(tmp_path, multi_modal_projector__linear_2__weight=np.zeros((64, 8, 8), np.float32))

    (line,) = fault(tmp_path)

    assert line.endswith("linear_2.weight' has shape [64, 8, 8], the configuration asks for [64, 64]")


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_tensor_under_two_names_is_refused(name: str, tmp_path: Path) -> None:
    oracle = saved(f"{name}/plain", tmp_path)
    norm = "model.language_model.norm.weight"
    rewrite(tmp_path, **{norm.replace(".", "__"): oracle.modules[norm]})

    (line,) = fault(tmp_path)

    pair = {norm, "model.norm.weight" if name == "qwen2_vl" else "language_model.model.norm.weight"}
    assert set(re.findall(r"'(\S+)'", line)) == pair
    assert line.endswith("by another name; keep one of them")


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_tied_head_is_accepted_only_with_the_bytes_of_the_embedding(name: str, tmp_path: Path) -> None:
    oracle = saved(f"{name}/tied", tmp_path)
    embedding = oracle.modules["model.language_model.embed_tokens.weight"].copy()
    rewrite(tmp_path, lm_head__weight=embedding.copy())
    assert "head/output" not in loaded(tmp_path)

    embedding[95, 31] += 1
    rewrite(tmp_path, lm_head__weight=embedding)
    with pytest.raises(InputError, match="though tie_word_embeddings is true"):
        loaded(tmp_path)
