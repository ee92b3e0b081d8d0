"""Reading records, and writing the checkpoints that they speak of: as transformers saves them, without torch."""

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from oracles import names, values

Array = np.ndarray[Any, Any]

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Row:
    """A row of tokens by itself, and what torch makes of it.

    `tokens` are those that follow by argmax, `logits` [tokens, vocabulary] those of `ids` and of all of `tokens` but
    the last, from some position on.
    """

    ids: list[int]
    pictures: list[Any] = field(default_factory=list)
    """Height, width and seed of each, or its file beside the checkpoint."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    logits: Array | None = None

    @property
    def pixels(self) -> list[Array]:
        """[channels, height, width] of each picture."""
        return [values.pixels(values.picture(*each)) for each in self.pictures]


@dataclass(frozen=True)
class Case:
    """What is asked of torch, written by hand, and what it made of that."""

    name: str
    given: dict[str, Any]
    made: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, Any]:
        """Those that its configuration was made of."""
        return self.given["fields"]

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json as transformers saved it."""
        return self.made["files"]["config.json"]

    @cached_property
    def tensors(self) -> dict[str, Array]:
        """All of its checkpoint, by the names in its files."""
        shapes = names.unfolded(self.made["tensors"])
        return {name: values.tensor(self.given["seed"], name, shape) for name, shape in shapes.items()}

    @property
    def modules(self) -> dict[str, Array]:
        """The same by the names that they have in transformers' model."""
        return {self._own(name): array for name, array in self.tensors.items()}

    def rows(self, group: str) -> list[Row]:
        """Those of a group."""
        asked, tokens = self.given["rows"][group], self.made.get("tokens", {}).get(group, [])
        pictures, logprobs = asked.get("pictures", []), self.made.get("logprobs", {}).get(group, [])
        return [
            Row(
                ids,
                pictures[i] if pictures else [],
                tokens[i] if tokens else [],
                logprobs[i] if logprobs else [],
                self.arrays.get(f"logits/{group}/{i}"),
            )
            for i, ids in enumerate(asked["ids"])
        ]

    @property
    def embeddings(self) -> list[Array]:
        """[tokens, hidden] of each of its images."""
        return [self.arrays[f"embeddings/{i}"] for i in range(len(self.given["images"]))]

    def write(self, directory: Path, sharded: bool = False) -> None:
        """Its checkpoint, byte for byte as transformers saves it; sharded in files of the size that it names."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.made["files"].items():
            (directory / name).write_text(_sorted(content))
        if sharded:
            (directory / "model.safetensors.index.json").write_text(_sorted(self._index()))
        places = self.made["shards"] if sharded else [0] * len(self.tensors)
        for number, file in enumerate(_files(places, sharded)):
            kept = {
                name: array
                for place, (name, array) in zip(places, self.tensors.items(), strict=True)
                if place == number
            }
            save_file(kept, directory / file, {"format": "pt"})

    def _own(self, name: str) -> str:
        begins = self.given.get("stored", {}).items()
        return next((own + name.removeprefix(stored) for own, stored in begins if name.startswith(stored)), name)

    def _index(self) -> dict[str, Any]:
        """Which file has which tensor."""
        places = self.made["shards"]
        files = _files(places, True)
        total = sum(array.size for array in self.tensors.values())
        return {
            "metadata": {"total_parameters": total, "total_size": 4 * total},
            "weight_map": {name: files[place] for name, place in zip(self.tensors, places, strict=True)},
        }


def read(name: str) -> Case:
    """The case of a name; one whose answers are not recorded yet has none."""
    given = json.loads((HERE / f"{name}.json").read_text())
    arrays = HERE / f"{name}.safetensors"
    return Case(name, given, given.pop("made", {}), load_file(arrays) if arrays.exists() else {})


def find(group: str = "") -> list[str]:
    """The names of all cases, or of those in one directory."""
    return sorted(str(file.relative_to(HERE).with_suffix("")) for file in (HERE / group).rglob("*.json"))


def write(case: Case) -> None:
    """Replaces the record of a case."""
    text = json.dumps({**case.given, "made": case.made}, indent=2)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda m: re.sub(r"\s+", " ", m[0]).replace("[ ", "[").replace(" ]", "]"), text)
    (HERE / f"{case.name}.json").write_text(text + "\n")
    arrays = HERE / f"{case.name}.safetensors"
    arrays.unlink(missing_ok=True)
    if case.arrays:
        save_file(case.arrays, arrays)


def _files(places: list[int], sharded: bool) -> list[str]:
    count = max(places) + 1
    return [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)] if sharded else ["model.safetensors"]


def _sorted(content: Any) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
