import json
import os
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import synthetic

from aot.bundle import store, weight_writer, weights
from aot.bundle.index.records import WeightRecord, WeightsRecord
from aot.bundle.writer import Writer
from aot.errors import AotError, BundleError, InputError

DTYPES = [
    "bool", "uint8", "int8", "float8_e4m3fn", "float8_e5m2", "uint16", "int16", "float16", "bfloat16", "uint32",
    "int32", "float32", "uint64", "int64", "float64",
]  # fmt: skip


def arrays_of(*shapes: tuple[int, ...], dtype: str = "float32") -> dict[str, np.ndarray]:
    return {f"w{i}": np.arange(int(np.prod(shape))).reshape(shape).astype(dtype) for i, shape in enumerate(shapes)}


def plan_of(arrays: dict[str, np.ndarray], **options: int) -> tuple[weights.Shard, ...]:
    return weights.plan({path: (array.dtype.name, array.shape) for path, array in arrays.items()}, **options)


def stored(folder: Path, arrays: dict[str, np.ndarray], **options: int) -> tuple[WeightsRecord, list[bytes]]:
    """The record and the bytes of each blob."""
    with Writer.stage(folder / "bundle") as writer:
        record = weight_writer.write_tensors(writer, plan_of(arrays, **options), arrays.items())
        files = {path.name: path.read_bytes() for path in folder.glob(".bundle.*.partial/blobs/sha256/*")}
    return record, [files[blob.digest.removeprefix("sha256:")] for blob in record.blobs]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_safetensors_library_reads_every_dtype_back(tmp_path: Path, dtype: str):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    arrays = arrays_of((3, 5), (), (0, 4), (7,), dtype=kind)
    _, (data,) = stored(tmp_path, arrays)

    read = dict(safetensors.deserialize(data))
    for path, array in arrays.items():
        assert safetensors.numpy._TYPES.get(read[path]["dtype"], kind) == kind
        assert tuple(read[path]["shape"]) == array.shape
        assert bytes(read[path]["data"]) == array.tobytes()


def test_the_safetensors_library_opens_the_file_in_place(tmp_path: Path):
    arrays = arrays_of((3, 5), (17,))
    _, (data,) = stored(tmp_path, arrays)
    (tmp_path / "file").write_bytes(data)

    with safetensors.safe_open(tmp_path / "file", "np") as file:
        names = {name for name in file.keys() if not name.startswith("~pad/")}  # noqa: SIM118
        values = {name: file.get_tensor(name) for name in names}

    assert names == set(arrays)
    assert all((values[name] == arrays[name]).all() for name in names)


def test_every_weight_lies_on_a_64_byte_boundary_and_the_table_says_where(tmp_path: Path):
    arrays = arrays_of((1,), (3, 5), (), (2, 2), (33,)) | arrays_of((7,), dtype="int8")
    _, (data,) = stored(tmp_path, arrays)
    table = weights.tensor_table(memoryview(data), "blob")

    assert set(table) == set(arrays)
    for path, (dtype, shape, offset) in table.items():
        array = np.frombuffer(data, dtype, int(np.prod(shape)), offset).reshape(shape)
        assert offset % 64 == 0
        assert np.array_equal(array, arrays[path])


def test_equal_weights_give_equal_bytes(tmp_path: Path):
    arrays = arrays_of((3, 5), (17,), (2,))
    (first, _), (second, _) = (stored(tmp_path / name, arrays, limit=200) for name in ("a", "b"))

    assert first == second


def test_weights_are_split_between_tensors_and_no_file_grows_beyond_the_limit(tmp_path: Path):
    arrays = arrays_of((16,), (16,), (16,), (100,), (1,))
    record, files = stored(tmp_path, arrays, limit=128)

    assert [array.blob for array in record.arrays.values()] == [0, 0, 1, 2, 3]
    assert [set(weights.tensor_table(memoryview(data), "blob")) for data in files] == [
        {"w0", "w1"},
        {"w2"},
        {"w3"},
        {"w4"},
    ]


def test_strided_and_foreign_endian_arrays_are_stored_by_value(tmp_path: Path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    _, (data,) = stored(tmp_path, {"t": array.T, "b": array.astype(">f4")})
    read = safetensors.numpy.load(data)

    assert np.array_equal(read["t"], array.T)
    assert np.array_equal(read["b"], array)


def test_a_model_without_weights_has_no_blobs(tmp_path: Path):
    assert stored(tmp_path, {}) == (WeightsRecord((), {}), [])


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([("w1", np.zeros(2, np.float32))], "got 'w1' float32 [2], planned is 'w0' float32 [2]"),
        ([("w0", np.zeros(3, np.float32))], "got 'w0' float32 [3], planned is 'w0' float32 [2]"),
        ([("w0", np.zeros(2, np.float16))], "got 'w0' float16 [2], planned is 'w0' float32 [2]"),
        ([], "got 'nothing'"),
        ([("w0", np.zeros(2, np.float32)), ("w9", np.zeros(1))], "'w9' was not planned"),
    ],
)
def test_tensors_other_than_planned_are_refused(tmp_path: Path, tensors: list, said: str):
    with Writer.stage(tmp_path / "bundle") as writer, pytest.raises(InputError) as caught:
        weight_writer.write_tensors(writer, weights.plan({"w0": ("float32", (2,))}), tensors)

    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("path", "dtype"), [("w", "complex64"), ("w", "int4"), ("__metadata__", "int8"), ("~pad/0", "int8")]
)
def test_what_the_format_cannot_hold_is_refused(path: str, dtype: str):
    with pytest.raises(InputError, match="weights: "):
        weights.plan({path: (dtype, (2,))})


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path):
    living: set[int] = set()

    class Tracked(np.ndarray):
        def __del__(self) -> None:
            living.discard(id(self))

    def tensors():
        for i in range(4):
            assert not living
            array = np.zeros(8, np.float32).view(Tracked)
            living.add(id(array))
            yield f"w{i}", array
            del array

    with Writer.stage(tmp_path / "bundle") as writer:
        record = weight_writer.write_tensors(
            writer, weights.plan({f"w{i}": ("float32", (8,)) for i in range(4)}), tensors()
        )

    assert len(record.arrays) == 4


def made(header: object, data: bytes = b"", length: int | None = None) -> memoryview:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text = text.ljust(-(-(8 + len(text)) // 64) * 64 - 8)
    return memoryview(struct.pack("<Q", len(text) if length is None else length) + text + data)


def tensor(begin: int, end: int, shape: object, dtype: str = "U8") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("view", "said"),
    [
        (memoryview(b""), "does not fit"),
        (memoryview(b"\x01\x02"), "does not fit"),
        (made({}, length=1 << 63), "does not fit"),
        (made({}, length=55), "no multiple of 64"),
        (made([]), "must be an object"),
        (made(b"{"), "Expecting property name"),
        (made(b'{"a": 1, "a": 1}'), "'a' occurs twice"),
        (made(b'{"a": NaN}'), "NaN is no JSON number"),
        (made(b'{"\xff": 1}'), "not UTF-8"),
        (made(b"[" * 100_000), "nested too deeply"),
        (made({"__metadata__": {"a": "b"}}), "unknown field 'a'"),
        (made({"a": tensor(0, 2, [2]) | {"more": 1}}, b"ab"), "unknown field 'more'"),
        (made({"a": {"dtype": "U8", "shape": []}}), "lacks the field 'data_offsets'"),
        (made({"a": tensor(0, 2, [2], "F128")}, b"ab"), "'a'.dtype must be one of"),
        (made({"a": tensor(0, 2, [3])}, b"ab"), "has 2 bytes, its dtype and shape make 3"),
        (made({"a": tensor(2, 0, [2])}, b"ab"), "has -2 bytes"),
        (made({"a": tensor(0, 1, [-1, -1])}, b"a"), "at least 0"),
        (made({"a": tensor(0, 1, [True])}, b"a"), "at least 0"),
        (made({"a": tensor(0, 1, [1.0])}, b"a"), "at least 0"),
        (made({"a": tensor(0, 1 << 70, [1 << 70])}, b"a"), "at least 0"),
        (made({"a": tensor(0, 1, [1] * 10_000)}, b"a"), "at most 64 axes"),
        (made({"a": tensor(0, 1 << 40, [1 << 40])}, b"a"), "the data end at"),
        (made({"a": tensor(64, 65, [1])}, bytes(65)), "the data before it end at"),
        (made({"a": tensor(0, 64, [64]), "b": tensor(0, 64, [64])}, bytes(64)), "the data before it end at"),
        (made({"a": tensor(0, 1, [1]), "b": tensor(1, 2, [1])}, b"ab"), "'b' begins at 129, which is no multi"),
        (made({"a": tensor(0, 1, [1])}, b"ab"), "the data end at 129, the file at 130"),
    ],
)  # fmt: skip
def test_a_hostile_header_is_one_bundle_error(view: memoryview, said: str):
    with pytest.raises(BundleError) as caught:
        weights.tensor_table(view, "bundle b: blob sha256:00…")

    assert str(caught.value).startswith("bundle b: blob sha256:00…: weights: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({"a": WeightRecord("float32", (2,), 0)}, "'b' is int8 [1], in the index absent"),
        ({"a": WeightRecord("float32", (3,), 0), "b": WeightRecord("int8", (1,), 0)}, "in the index float32 [3]"),
        ({"a": WeightRecord("float32", (2,), 0), "b": WeightRecord("uint8", (1,), 0)}, "in the index uint8 [1]"),
        (
            {"a": WeightRecord("float32", (2,), 0), "b": WeightRecord("int8", (1,), 1)},
            "'b' is int8 [1], in the index absent",
        ),
        (
            {name: WeightRecord("float32", (2,), 0) for name in "ac"} | {"b": WeightRecord("int8", (1,), 0)},
            "'c' is absent, in the index float32 [2]",
        ),
    ],
)
def test_weights_that_the_index_describes_otherwise_are_refused(records: dict, said: str):
    blob = synthetic.blob(b"")
    found = {"a": ("float32", (2,), 64), "b": ("int8", (1,), 128)}

    with pytest.raises(BundleError) as caught:
        weights.agree(found, WeightsRecord((blob, blob), records), 0, "blob")

    assert said in str(caught.value)


def test_verify_compares_the_weights_of_a_whole_bundle_with_its_index(tmp_path: Path):
    with Writer.stage(tmp_path / "b") as writer:
        for data in (synthetic.PROGRAM, synthetic.EXECUTABLE, synthetic.TOKENIZER):
            writer.add(data)
        plan = weights.plan({"embed": ("float32", (1,))})
        blob = weight_writer.write_tensors(writer, plan, [("embed", np.zeros(1, np.float32))]).blobs[0]
        writer.publish(synthetic.index(WeightsRecord((blob,), synthetic.index().weights.arrays)))

    with pytest.raises(BundleError, match=r"weight 'embed' is float32 \[1\], in the index float32 \[5, 3\]"):
        store.verify(tmp_path / "b")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_full_disk_while_weights_are_written_is_one_line(tmp_path: Path, size: int):
    with Writer.stage(tmp_path / "b") as writer, pytest.raises(AotError) as caught:
        write_to_full_disk(writer, size)

    assert "b: no space left on device; nothing was written" in str(caught.value)
    assert "\n" not in str(caught.value)


def write_to_full_disk(writer: Writer, size: int) -> None:
    with writer.file() as file, open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), file._writer._file.fileno())
        file.write(bytes(size))
