"""Checkpoints as transformers saves and loads them, held to those that the tests write without it."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import transformers
from oracles import names
from oracles.records import Case
from safetensors import safe_open


class RecordError(Exception):
    """A case that cannot be recorded as it is."""


def built(name: str, fields: Mapping[str, Any]) -> Any:
    """The model of a class and of fields of its configuration, with weights of its own."""
    made = getattr(transformers, name)
    return made(made.config_class(**copy.deepcopy(dict(fields)))).eval()


def stored(model: Any, shard: str | None) -> dict[str, Any]:
    """What transformers writes of a model, but for the values: files of JSON, and names and shapes of tensors."""
    with TemporaryDirectory() as home:
        model.save_pretrained(home)
        files = {file.name: json.loads(file.read_text()) for file in sorted(Path(home).glob("*.json"))}
        (shapes,) = _shapes(Path(home))
    found = {"files": files, "tensors": names.folded(shapes)}
    return found | ({"shards": _shards(model, shard, shapes)} if shard else {})


def _shards(model: Any, size: str, shapes: Mapping[str, Any]) -> list[int]:
    """The number of the file that each tensor goes to, in the order of their names."""
    with TemporaryDirectory() as home:
        model.save_pretrained(home, max_shard_size=size)
        places = {name: number for number, part in enumerate(_shapes(Path(home))) for name in part}
    return [places[name] for name in sorted(shapes)]


def _shapes(home: Path) -> list[dict[str, list[int]]]:
    """Those of the tensors of each file."""
    found = []
    for file in sorted(home.glob("*.safetensors")):
        with safe_open(file, "numpy") as opened:
            names_there = opened.keys()
            found.append({name: opened.get_slice(name).get_shape() for name in names_there})
    return found


def loaded(case: Case) -> tuple[Any, list[str]]:
    """Transformers' model of the checkpoint of a case, all of which it takes, and what of the model is not in it."""
    with TemporaryDirectory() as home:
        case.write(Path(home))
        made = getattr(transformers, case.given["model"])
        model, told = made.from_pretrained(home, output_loading_info=True)
    if wrong := {kind: found for kind, found in told.items() if found}:
        raise RecordError(f"transformers does not take the checkpoint as it is: {wrong}")
    _assert_same_bytes(case, model)
    return model.eval(), _left(case, model)


def _assert_same_bytes(case: Case, model: Any) -> None:
    """Holds what the tests write to what transformers saves of the same values."""
    copied = built(
        case.given["model"], case.fields
    )  # what was loaded shares memory among tensors, so is split otherwise
    copied.load_state_dict(model.state_dict())
    for sharded in (False, True)[: 1 + ("shard" in case.given)]:
        with TemporaryDirectory() as ours, TemporaryDirectory() as theirs:
            case.write(Path(ours), sharded)
            copied.save_pretrained(theirs, **({"max_shard_size": case.given["shard"]} if sharded else {}))
            if (files := _digests(ours)) != (wanted := _digests(theirs)):
                raise RecordError(
                    f"transformers saves {sorted(wanted)}, the tests write {sorted(files)}, or other bytes"
                )


def _digests(home: str) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in Path(home).iterdir()}


def _left(case: Case, model: Any) -> list[str]:
    """The names in the model that have no tensor in the files; all others have their values."""
    modules, state = case.modules, model.state_dict()
    if unknown := set(modules) - set(state):
        raise RecordError(f"'stored' leads to names that the model does not have: {sorted(unknown)}")
    if wrong := [name for name, array in modules.items() if not np.array_equal(array, state[name].numpy())]:
        raise RecordError(f"other values than those written: {wrong}")
    return sorted(set(state) - set(modules))


def recorded(case: Case) -> tuple[Case, Any]:
    """The case with what transformers stores of its model, and the model with the values of the case."""
    case = replace(case, made=stored(built(case.given["model"], case.fields), case.given.get("shard")))
    model, left = loaded(case)
    return replace(case, made=case.made | ({"tied": left} if left else {})), model
