"""What processes of ours say to each other comes through as it is, or not at all."""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from aot import errors
from aot.builder import messages
from aot.builder.compiling import compile
from aot.builder.messages import Advanced, Asked, Done, Failed, Logged
from aot.builder.tasks.executable import Compile
from aot.builder.tasks.task import task_of
from aot.bundle.index.records import BlobRecord, WeightRecord, WeightsRecord
from aot.errors import AotError
from aot.targets import CpuTarget

DIGEST = f"sha256:{'0' * 64}"


@dataclass(frozen=True)
class Everything:
    path: Path | None
    pairs: tuple[tuple[int, bytes], ...]
    counts: int | Mapping[str, int]
    by_position: Mapping[int, bytes]
    said: Any
    record: WeightsRecord | None = None


WHOLE = Everything(
    path=Path(os.fsdecode(b"caf\xe9")),
    pairs=((1, b"\x00\xff"),),
    counts={"z": 1, "a": 2},
    by_position={3: b"three"},
    said={"order": {"model": 2, "data": 4}, "list": (1, 2.5, None, True, os.fsdecode(b"\xe9"))},
    record=WeightsRecord((BlobRecord(DIGEST, 7),), {"w": WeightRecord("float32", (2, 3), 0)}),
)
EMPTY = Everything(path=None, pairs=(), counts=3, by_position={}, said=None)


def through(*values: object) -> list[object]:
    """Values as the other process has them."""
    stream = io.BytesIO(b"".join(map(messages.packed, values)))
    return list(messages.received(stream, *{type(value) for value in values}))


@pytest.mark.parametrize("value", [WHOLE, EMPTY])
def test_a_value_comes_through_as_it_is(value: Everything) -> None:
    assert through(value) == [value]


def test_mappings_keep_their_order_which_is_that_of_devices() -> None:
    (found,) = through(WHOLE)

    assert isinstance(found, Everything)
    assert list(found.said["order"]) == ["model", "data"]
    assert isinstance(found.counts, Mapping)
    assert list(found.counts) == ["z", "a"]


def test_what_is_declared_as_anything_comes_back_with_tuples_or_lists() -> None:
    message = Done({"a": (1, [2, 3]), "b": MappingProxyType({"c": Path("d")})})
    (found,) = through(message)
    (listed,) = messages.received(io.BytesIO(messages.packed(message)), Done, lists=True)

    assert found == Done({"a": (1, (2, 3)), "b": {"c": "d"}})
    assert listed == Done({"a": [1, [2, 3]], "b": {"c": "d"}})


def test_messages_of_several_classes_come_in_their_order_however_large() -> None:
    said = [Logged("a"), Done(bytes(1 << 18)), Advanced("b", 1.5, 3), Advanced("c")]

    assert through(*said) == said


@pytest.mark.parametrize(
    "fields",
    [
        {"path": None, "pairs": [], "counts": 3, "by_position": {}},
        {"path": 3, "pairs": [], "counts": 3, "by_position": {}, "said": None},
        {"path": None, "pairs": [["1", b""]], "counts": 3, "by_position": {}, "said": None},
        {"path": None, "pairs": [], "counts": "3", "by_position": {}, "said": None},
        {"path": None, "pairs": [], "counts": 3, "by_position": {}, "said": None, "record": {"blobs": []}},
    ],
)
def test_what_is_not_of_the_declared_types_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"required field|must be of|Expected"):
        messages.read(Everything, fields)


def test_what_no_message_says_is_not_said() -> None:
    with pytest.raises(NotImplementedError, match="no message says object"):
        messages.packed(Done(object()))


@pytest.mark.parametrize("error", [errors.InputError("a: b"), errors.ManifestError("a", "b"), AotError("c")])
def test_an_error_is_raised_as_it_was_in_the_other_process(error: AotError) -> None:
    (failed,) = through(Failed.by(error))

    assert isinstance(failed, Failed)
    raised = failed.raised()
    assert (type(raised), str(raised)) == (type(error), str(error))


def test_a_task_is_found_by_its_class_and_says_what_it_gives() -> None:
    task = Compile(DIGEST, (("data", 2),), CpuTarget("avx2", 2, mesh={"data": 2}), Path("staging"))
    (asked,) = through(task.asked())

    assert isinstance(asked, Asked)
    assert task_of(asked) == task
    assert task.result() is compile.ExecutableRecord
