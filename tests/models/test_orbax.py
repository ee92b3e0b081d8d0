import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import orbax.checkpoint._src.serialization.tensorstore_utils as tensorstore_utils
import pytest
from flax import nnx

from aot.errors import InputError
from aot.models.checkpoints import checkpoint, orbax
from aot.models.families import names
from aot.models.families.config import DecoderConfig

CONFIG = DecoderConfig.from_huggingface(
    {
        "family": "qwen3",
        "vocab_size": 24,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "max_position_embeddings": 16,
    }
)
PARAMETERS = names.parameter_shapes(CONFIG)
VALUES = {
    path: np.random.default_rng(i).standard_normal(shape).astype(np.float32)
    for i, (path, shape) in enumerate(PARAMETERS.items())
}


def tree(numbers: bool = False, dtype: Any = jnp.float32) -> dict[Any, Any]:
    """VALUES as nested dicts; with `numbers`, layers under int keys."""
    result: dict[Any, Any] = {}
    for path, value in VALUES.items():
        *parents, name = [int(key) if numbers and key.isdigit() else key for key in path.split("/")]
        node = result
        for key in parents:
            node = node.setdefault(key, {})
        node[name] = jnp.asarray(value, dtype)
    return result


def state(**options: Any) -> dict[str, Any]:
    """A training state: the parameters and what else is saved beside them."""
    return {"params": tree(**options), "optimizer": {"mu": jnp.ones((64, 64)), "count": 3}}


def standard(directory: Path, value: Any) -> Path:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory, value)
    return directory


def pytree(directory: Path, value: Any) -> Path:
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(directory, value)
    return directory


def plain_files(directory: Path, value: Any) -> Path:
    with ocp.PyTreeCheckpointer(use_ocdbt=False) as checkpointer:
        checkpointer.save(directory, value)
    return directory


def zarr3(directory: Path, value: Any) -> Path:
    with ocp.PyTreeCheckpointer(use_zarr3=True) as checkpointer:
        checkpointer.save(directory, value)
    return directory


def step(directory: Path, value: Any) -> Path:
    with ocp.CheckpointManager(directory) as manager:
        manager.save(5, args=ocp.args.StandardSave(value))
        manager.wait_until_finished()
    return directory / "5"


def module(values: dict[Any, Any]) -> Any:
    fields = {key: module(value) if isinstance(value, dict) else nnx.Param(value) for key, value in values.items()}
    return nnx.Dict({str(key): value for key, value in fields.items()})


def load(directory: Path, subtree: str = "params", dtype: str = "float32") -> dict[str, np.ndarray[Any, Any]]:
    return dict(orbax.orbax_tensors(directory, subtree, PARAMETERS, dtype))


def fault(directory: Path, subtree: str = "params") -> str:
    """The message of `check`, which `tensors` must give as well, before its first array."""
    with pytest.raises(InputError) as planned:
        orbax.check_orbax(directory, subtree, PARAMETERS, "float32")
    with pytest.raises(InputError) as built:
        orbax.orbax_tensors(directory, subtree, PARAMETERS, "float32")
    assert str(planned.value) == str(built.value)
    return str(planned.value)


@pytest.mark.parametrize("save", [standard, pytree, plain_files, zarr3, step])
def test_every_parameter_has_the_values_that_orbax_saved(save: Callable[[Path, Any], Path], tmp_path: Path) -> None:
    directory = save(tmp_path / "saved", state())
    orbax.check_orbax(directory, "params", PARAMETERS, "float32")
    loaded = load(directory)

    assert checkpoint.checkpoint_kind(directory) == "orbax"
    assert list(loaded) == list(PARAMETERS)
    for path, array in loaded.items():
        np.testing.assert_array_equal(array, VALUES[path])


def test_layers_may_have_numbers_for_keys(tmp_path: Path) -> None:
    directory = standard(tmp_path / "saved", state(numbers=True))

    np.testing.assert_array_equal(load(directory)["layers/1/mlp/norm"], VALUES["layers/1/mlp/norm"])


def test_the_state_of_an_nnx_model_is_read_as_a_pure_dict(tmp_path: Path) -> None:
    pure = nnx.to_pure_dict(nnx.state(module(tree())))
    directory = standard(tmp_path / "saved", {"model": {"params": pure}})

    np.testing.assert_array_equal(load(directory, "model/params")["embed/tokens"], VALUES["embed/tokens"])


@pytest.mark.parametrize("ocdbt", [False, True])
def test_the_state_of_an_nnx_model_is_read_as_it_is(ocdbt: bool, tmp_path: Path) -> None:
    saved = {"params": nnx.state(module(tree()))}
    with ocp.PyTreeCheckpointer(use_ocdbt=ocdbt) as checkpointer:
        checkpointer.save(tmp_path / "saved", saved)
    loaded = load(tmp_path / "saved")

    assert any(key.endswith("/value") for key in orbax._tree(tmp_path / "saved").leaves)
    for path, value in VALUES.items():
        np.testing.assert_array_equal(loaded[path], value)


@pytest.mark.parametrize("ocdbt", [False, True])
@pytest.mark.parametrize("said", [False, None])
def test_chunks_of_zeros_that_were_not_stored_are_zeros_where_the_checkpoint_says_so(
    ocdbt: bool, said: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = state()
    value["params"]["head"]["norm"] = jnp.zeros(8)
    with monkeypatch.context() as patch, ocp.PyTreeCheckpointer(use_zarr3=True, use_ocdbt=ocdbt) as checkpointer:
        patch.setattr(tensorstore_utils, "STORE_ARRAY_DATA_EQUAL_TO_FILL_VALUE", False)  # as before release 0.11
        checkpointer.save(tmp_path / "saved", value)
    file = tmp_path / "saved" / "_METADATA"
    metadata = json.loads(file.read_text())
    assert metadata.pop("store_array_data_equal_to_fill_value") is False
    file.write_text(json.dumps(metadata | ({} if said is None else {"store_array_data_equal_to_fill_value": said})))
    loaded = load(tmp_path / "saved")

    np.testing.assert_array_equal(loaded["head/norm"], np.zeros(8))
    np.testing.assert_array_equal(loaded["embed/tokens"], VALUES["embed/tokens"])
    file.write_text(json.dumps(metadata | {"store_array_data_equal_to_fill_value": True}))
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "saved")


def test_a_tied_head_is_taken_only_with_the_values_of_the_embedding(tmp_path: Path) -> None:
    tied = {path: shape for path, shape in PARAMETERS.items() if path != "head/output"}

    def loaded(name: str, embed: Any, head: Any) -> dict[str, Any]:
        value = state()
        value["params"]["embed"], value["params"]["head"]["output"] = embed, head
        return dict(orbax.orbax_tensors(standard(tmp_path / name, value), "params", tied, "float32"))

    table = jnp.asarray(VALUES["embed/tokens"])
    both, alone = loaded("both", {"tokens": table}, table), loaded("alone", {}, table)

    assert list(both) == list(alone) == list(tied)
    np.testing.assert_array_equal(alone["embed/tokens"], table)
    with pytest.raises(
        InputError, match=r"array 'head/output' differs from 'embed/tokens', though tie_word_embeddings"
    ):
        loaded("other", {"tokens": table}, table + 1)
    value = state()
    del value["params"]["embed"]
    assert "array 'embed/tokens' is missing" in fault(standard(tmp_path / "untied", value))


def test_the_dtype_of_a_checkpoint_is_that_of_its_parameters(tmp_path: Path) -> None:
    directory = standard(tmp_path / "saved", state(dtype=jnp.bfloat16))  # beside float32 in the optimizer's

    assert orbax.orbax_dtype(directory, "params", PARAMETERS) == "bfloat16"


def test_arrays_are_converted(tmp_path: Path) -> None:
    directory = standard(tmp_path / "saved", state(dtype=jnp.bfloat16))
    expected = np.asarray(jnp.asarray(VALUES["head/norm"], jnp.bfloat16))

    assert load(directory, dtype="bfloat16")["head/norm"].dtype == expected.dtype
    np.testing.assert_array_equal(load(directory, dtype="bfloat16")["head/norm"], expected)
    np.testing.assert_array_equal(load(directory)["head/norm"], expected.astype(np.float32))


def test_nothing_beside_the_subtree_is_needed(tmp_path: Path) -> None:
    directory = plain_files(tmp_path / "saved", state())
    for path in directory.glob("optimizer.*"):
        shutil.rmtree(path)

    assert load(directory).keys() == VALUES.keys()


def test_jax_and_orbax_are_not_imported(tmp_path: Path) -> None:
    directory = standard(tmp_path / "saved", state())
    program = (
        "import sys; from pathlib import Path; from aot.models.checkpoints import orbax\n"
        f"arrays = orbax.orbax_tensors(Path({str(directory)!r}), 'params/embed', {{'tokens': (24, 8)}}, 'float32')\n"
        "path, array = next(arrays)\n"
        "print(path, array.shape, *sorted({'jax', 'orbax', 'flax'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout == "tokens (24, 8)\n"


def test_missing_surplus_and_misshapen_arrays_are_all_named(tmp_path: Path) -> None:
    value = state()
    del value["params"]["head"]["norm"]
    value["params"]["extra"] = jnp.ones(2)
    value["params"]["embed"]["tokens"] = jnp.ones((24, 9), jnp.int8)
    directory = standard(tmp_path / "saved", value)

    assert fault(directory).splitlines() == [
        f"checkpoint {directory}: array 'head/norm' is missing",
        f"checkpoint {directory}: array 'extra' is not used by the model",
        f"checkpoint {directory}: array 'embed/tokens' has shape [24, 9], the configuration asks for [24, 8]",
        f"checkpoint {directory}: array 'embed/tokens' is stored as int8, which is not one of "
        "bfloat16, float16, float32, float64",
    ]


def test_a_subtree_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    directory = standard(tmp_path / "saved", state())

    assert "nothing lies under 'parms'; did you mean 'params'?" in fault(directory, "parms")
    assert "nothing lies under 'x'; it has " in fault(directory, "x")


@pytest.mark.parametrize("save", [standard, plain_files])
def test_lost_and_damaged_files_are_errors(save: Callable[[Path, Any], Path], tmp_path: Path) -> None:
    directory = save(tmp_path / "saved", state())
    chunk = directory / "params.head.norm" / "0"
    for file in [chunk] if save is plain_files else directory.rglob("d/*"):
        file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(InputError, match="cannot be read") as damaged:
        load(directory)
    assert "\n" not in str(damaged.value)

    for file in [chunk] if save is plain_files else list(directory.rglob("d/*")):
        file.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load(directory)


def test_a_checkpoint_of_several_steps_asks_for_one(tmp_path: Path) -> None:
    step(tmp_path / "saved", state())

    assert checkpoint.checkpoint_kind(tmp_path / "saved") == "orbax"
    assert "is no tree but holds '5/default'; name one of these" in fault(tmp_path / "saved")


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"tree_metadata": {"a": {}}}', '{"tree_metadata": [1]}', "[" * 100000]
)
def test_damaged_metadata_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "_METADATA").write_text(text)

    assert "_METADATA: is not the metadata of an Orbax checkpoint" in fault(tmp_path)


def test_a_directory_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    assert "holds no _METADATA" in fault(tmp_path)
    assert "holds no _METADATA" in fault(tmp_path / "nothing")
