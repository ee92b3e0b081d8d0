"""The records of what torch gave: whole, small, of one version, and told apart from others by tools/oracles."""

import dataclasses
import sys
from typing import Any

import numpy as np
import pytest
from oracles import names, records, values
from places import ROOT
from safetensors.numpy import load_file

sys.path.insert(0, str(ROOT / "tools" / "torch_records"))
import comparing

NAMES = records.find()


def test_one_torch_made_every_record() -> None:
    made = [tuple(records.read(name).made["by"].items()) for name in NAMES]

    assert len(set(made)) == 1
    assert [name for name, _ in made[0]] == ["torch", "transformers"]


def test_records_are_small_and_no_array_is_left_without_its_case() -> None:
    files = [file for file in records.HERE.rglob("*") if file.suffix in (".json", ".safetensors")]

    assert sum(file.stat().st_size for file in files) < 2 << 20
    assert {file.with_suffix("") for file in files} == {records.HERE / name for name in NAMES}


def test_a_checkpoint_is_the_same_in_one_file_and_in_several(tmp_path: Any) -> None:
    case = records.read("saved/qwen2")
    case.write(tmp_path / "one")
    case.write(tmp_path / "several", sharded=True)

    found = [
        {name: array for file in (tmp_path / kind).glob("*.safetensors") for name, array in load_file(file).items()}
        for kind in ("one", "several")
    ]
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 2
    for tensors in found:
        assert tensors.keys() == case.tensors.keys()
        assert all(np.array_equal(array, case.tensors[name]) for name, array in tensors.items())


def test_values_follow_from_seed_and_name_and_no_two_tensors_are_alike() -> None:
    matrix = values.tensor(3, "a.weight", [400, 50])
    drawn = [values.tensor(*each, [8]).tolist() for each in ((3, "a.bias"), (3, "b.bias"), (4, "a.bias"))]

    assert values.tensor(3, "a.weight", [400, 50]).tolist() == matrix.tolist()
    assert (matrix.mean(), matrix.std()) == (pytest.approx(0, abs=2e-3), pytest.approx(0.1, abs=2e-3))
    assert values.tensor(3, "a.weight", [20_000]).mean() == pytest.approx(1, abs=2e-3)
    assert len({tuple(each) for each in drawn}) == 3
    assert drawn[0][:3] == [-0.09674863517284393, 0.08621668070554733, 0.055926401168107986]


def test_a_picture_of_another_seed_or_size_is_another() -> None:
    one = values.picture(4, 6, 0)

    assert one.shape == (4, 6, 3)
    assert not np.array_equal(one, values.picture(4, 6, 1))
    assert not np.array_equal(one.reshape(-1), values.picture(6, 4, 0).reshape(-1))
    assert values.pixels(one).shape == (3, 4, 6)


def test_names_of_layers_are_folded_where_they_are_alike_and_unfolded_to_all_of_them() -> None:
    shapes = {f"model.layers.{i}.norm.weight": [4 if i < 3 else 5] for i in (0, 1, 2, 3, 5)} | {
        "lm_head.weight": [9, 4]
    }

    folded = names.folded(shapes)

    assert folded == {
        "lm_head.weight": [9, 4],
        "model.layers.{0-2}.norm.weight": [4],
        "model.layers.3.norm.weight": [5],
        "model.layers.5.norm.weight": [5],
    }
    assert names.unfolded(folded) == shapes


def text() -> records.Case:
    return records.read("text/llama")


def changed(**made: Any) -> records.Case:
    return dataclasses.replace(text(), made=text().made | made)


def off(name: str, by: float) -> records.Case:
    """The record with one number of an array moved."""
    array = text().arrays[name].copy()
    array[1, 2] += by
    return dataclasses.replace(text(), arrays=text().arrays | {name: array})


TOKENS = {"later": [[1, 2], [3]]}
CONFIG = {"config.json": {"hidden_size": 5}}


@pytest.mark.parametrize(
    ("made", "place", "words"),
    [
        (changed(tokens=text().made["tokens"] | TOKENS), "tokens/later/0", "int64[2] instead of int64[9]"),
        (changed(files=CONFIG), "files/config.json/hidden_size", "5 instead of 64"),
        (changed(windows=[None, 7, None]), "windows/1", "7 instead of None"),
        (changed(frequencies=[1.0, 1.0, 1.0]), "frequencies", "float64[3] instead of float64[8]"),
        (changed(tensors={}), "tensors/lm_head.weight", "None instead of [320, 64]"),
        (off("logits/one of 9/0", 1e-3), "logits/one of 9/0", "off by 0.001, allowed 1."),
        (off("logits/one of 9/0", np.nan), "logits/one of 9/0", "nan instead of"),
        (dataclasses.replace(text(), arrays={}), "logits/one of 9/0", "None instead of float32[29, 320]"),
    ],
)
def test_a_record_that_differs_is_told_with_its_place_and_how_much(made: Any, place: str, words: str) -> None:
    found = {difference.place: difference.text for difference in comparing.differences(text(), made)}

    assert words in found[place]


def test_records_of_other_versions_with_floats_within_tolerance_are_the_same() -> None:
    files = text().made["files"] | {"config.json": text().config | {"transformers_version": "6.0.0"}}
    made = dataclasses.replace(off("logits/one of 9/0", 5e-6), made=changed(by={"torch": "3"}, files=files).made)

    assert comparing.differences(text(), made) == []
    assert comparing.largest(text(), made) == pytest.approx(5e-6, rel=0.1)
