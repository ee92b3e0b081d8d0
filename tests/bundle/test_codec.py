import dataclasses
import random
import time
import tracemalloc

import msgpack
import pytest
import synthetic

from aot.bundle.index import codec, consistency
from aot.bundle.index.document import Fault
from aot.bundle.index.records import FORMAT, ComboRecord, Index
from aot.errors import BundleError, MachineError
from aot.precompile import Combo


def raw() -> dict:
    """The index as plain msgpack values, to be spoiled."""
    return synthetic.opened(codec.encode(synthetic.index()))


def fault_of(data: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        codec.decode(data, "bundle b: index")
    message = str(caught.value)
    assert message.startswith("bundle b: index: ")
    assert "\n" not in message
    return message


def test_decoding_gives_back_the_index():
    index = synthetic.index()

    assert codec.decode(codec.encode(index), "x") == index


def test_decoded_records_are_frozen_and_hold_no_lists():
    index = codec.decode(codec.encode(synthetic.index()), "x")

    assert type(index.programs[0].arguments[1].shape) is tuple
    assert type(index.model["config"]["rates"]) is tuple
    with pytest.raises(dataclasses.FrozenInstanceError):
        index.programs[0].name = "other"


def test_equal_indexes_give_equal_bytes_whatever_the_order_of_their_mappings():
    index = synthetic.index()
    shuffled = dataclasses.replace(
        index,
        versions=dict(reversed(index.versions.items())),
        phases=dict(reversed(index.phases.items())),
        model={"config": dict(reversed(index.model["config"].items())), "family": "synthetic"},
    )

    assert codec.encode(shuffled) == codec.encode(index)


def test_bytes_of_an_index_are_what_another_msgpack_reads_in_order_of_declaration():
    value = raw()

    assert list(value) == [*(field.name for field in dataclasses.fields(Index)), "arguments"]
    assert value["model"]["config"] == {"layers": 2, "rates": [0.5, 1], "scaling": None, "tied": True}
    assert value["programs"][0]["arguments"] == value["programs"][0]["results"] == [0, 1]
    assert value["arguments"][1] == {
        "name": "x", "dtype": "int32", "shape": [1, 32], "sharding": [None, None], "donated": True,
    }  # fmt: skip


def test_integers_and_floats_stay_apart():
    whole, real = (dataclasses.replace(synthetic.index(), model={"rate": rate}) for rate in (1, 1.0))

    assert codec.encode(whole) != codec.encode(real)
    assert type(codec.decode(codec.encode(real), "x").model["rate"]) is float


def spoil(path: str, value: object) -> bytes:
    """The index with one value replaced, at a path such as `programs.0.bytes`; `...` removes it."""
    whole = at = raw()
    *way, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    for step in way:
        at = at[step]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return synthetic.closed(whole)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("programs/0/bytes", "8", "programs[0].bytes: must be 'int', got 'str'"),
        ("programs/0/bytes", True, "programs[0].bytes: must be 'int', got 'bool'"),
        ("programs/0/bytes", 8.0, "programs[0].bytes: must be 'int', got 'float'"),
        ("programs/0/bytes", -1, "programs[0].bytes: must be 'int' >= 0"),
        ("programs/0/bytes", None, "programs[0].bytes: must be 'int', got 'None'"),
        ("arguments/1/shape/0", -1, "arguments[1].shape[0]: must be 'int' >= 0"),
        ("arguments/1/sharding/1", 3, "arguments[1].sharding[1]: must be 'str | array | null', got 'int'"),
        ("arguments/1/donated", 1, "arguments[1].donated: must be 'bool', got 'int'"),
        ("arguments/1/name", b"x", "arguments[1].name: must be 'str', got 'bytes'"),
        ("arguments/1/donated", ..., "arguments[1]: missing required field 'donated'"),
        ("programs/0/extra", 1, "programs[0]: contains unknown field 'extra'"),
        ("programs/0/ex\ntra", 1, "programs[0]: contains unknown field 'ex\\ntra'"),
        ("programs/0", [], "programs[0]: must be 'object', got 'array'"),
        (
            "programs/0/arguments/1",
            2,
            "programs[0].arguments: must be positions in arguments, of which there are 2",
        ),
        ("programs/0/arguments/1", -1, "programs[0].arguments[1]: must be 'int' >= 0"),
        ("programs/0/results/0", {}, "programs[0].results[0]: must be 'int', got 'object'"),
        ("programs/0/results", 0, "programs[0].results: must be 'array', got 'int'"),
        ("arguments", {}, "arguments: must be 'array', got 'object'"),
        ("arguments", ..., "missing required field 'arguments'"),
        ("arguments/0", 5, "arguments[0]: must be 'object', got 'int'"),
        (
            "programs/0/executables/0/digest",
            "sha256:",
            "programs[0].executables[0].digest: must be 'str' matching regex '^sha256:[0-9a-f]{64}\\\\Z'",
        ),
        ("programs", {}, "programs: must be 'array', got 'object'"),
        ("versions", [], "versions: must be 'object', got 'array'"),
        ("versions/jax", 1, "versions[...]: must be 'str', got 'int'"),
        (
            "versions/aaa",
            "1",
            "is not in canonical form: all fields, in order, names sorted and each once, shortest numbers",
        ),
        ("model/config/zeta", float("nan"), "model: must be what JSON can say, got nan"),
        (
            "model/config/zeta",
            [1, {"z": 0, "a": 0}],
            "model: is not in canonical form: all fields, in order, names sorted and each once, shortest numbers",
        ),
        ("model/config/zeta", b"", "model: must be what JSON can say, got b''"),
        (
            "generation/sampling/top_p",
            float("inf"),
            "generation.sampling: sampling.top_p: must be a finite number, got inf",
        ),
        (
            "generation/num_return_sequences",
            "2",
            "generation.num_return_sequences: must be 'int | object', got 'str'",
        ),
        ("generation/eos_token_id/1", None, "generation.eos_token_id[1]: must be 'int', got 'None'"),
        ("generation", 0, "generation: must be 'object | null', got 'int'"),
        ("images/token", -1, "images: token, before and after must be ids below 16"),
        ("images/unit", 0, "images: unit and channels must be at least 1, got 0 and 3"),
        ("images/rotary", "spiral", "images.rotary: must be one of sequence, grid, got 'spiral'"),
        ("images/recipe/0/fit", "pad", "images.recipe: must resize once, with a fit of stretch or cover, got ['pad']"),
        ("images/recipe/0/step", "crop", "images.recipe: must resize once, with a fit of stretch or cover, got []"),
        ("phases/prefill/partial", ["embeddings"], "phases['prefill'].partial: 'embeddings' is none of its inputs"),
        ("partitions/0/mesh/0", ["a"], "partitions[0].mesh[0]: must be 'array' of length 2, got 1"),
        ("partitions/0/matches/0/1", "1", "partitions[0].matches[0][1]: must be 'int', got 'str'"),
        ("entries/1/chains/0/calls/1/1", "0", "entries[1].chains[0].calls[1][1]: must be 'int', got 'str'"),
        ("weights/arrays/embed/blob", 1, "weights.arrays['embed'].blob: no blob 1, there are 1"),
        ("entries/1/combo", 2, "entries[1].combo: there is no combo 2, there are 2"),
        ("entries/1/phase", "train", "entries[1].phase: must be one of ['decode', 'prefill'], got 'train'"),
        ("entries/1/phase", "prefill", "entries[1]: combo 0 has two entries for the phase 'prefill'"),
        ("entries/1/chains/0/calls/0", [1, 0], "entries[1].chains[0].calls: there is no program 1, there are 1"),
        ("entries/1/chains/0/calls/0", [0, 4], "entries[1].chains[0].calls: there is no binding 4, there are 4"),
        ("entries/1/chains/0/calls", [], "entries[1].chains[0].calls: must hold at least one call"),
        ("entries/1/chains/0/platform", "tpu", "program 0 is for 'cpu' {}, the chain for 'tpu' {}"),
        (
            "bindings/0/takes/1",
            "output/x",
            "bindings[0].takes[1]: must be gathered or input or source or state or value or weight",
        ),
        ("bindings/0/takes/1", "input", "bindings[0].takes[1]: must be gathered or input or source"),
        ("bindings/0/gives/0", "weight/embed", "bindings[0].gives[0]: must be gathered or output or state or value"),
        ("bindings/0/takes/0", "weight/none", "bindings[0].takes[0]: no weight 'none' in weights.arrays"),
        ("bindings/0/takes/1", ..., "entries[0].chains[0].calls: program 0 takes and gives (2, 2) arrays, binding 0"),
        ("arguments/1/name", "scale", "programs[0].arguments: a name occurs twice"),
        ("arguments/1/sharding/1", ..., "arguments[1].sharding: has 1 axes, the shape 2"),
        (
            "programs/0/digest",
            "sha256:../../etc",
            "programs[0].digest: must be 'str' matching regex '^sha256:[0-9a-f]{64}\\\\Z'",
        ),
        (
            "weights/blobs/0/digest",
            "sha256:" + "A" * 64,
            "weights.blobs[0].digest: must be 'str' matching regex '^sha256:[0-9a-f]{64}\\\\Z'",
        ),
        (
            "tokenizer",
            {"../../passwd": {"digest": "sha256:" + "0" * 64, "bytes": 0}},
            "tokenizer: must be 'str' matching regex '^[A-Za-z0-9_][A-Za-z0-9_.-]*\\\\Z'",
        ),
        ("combos/0/key", "xyz", "combos[0].key: must be 'str' matching regex '^[0-9a-f]{64}\\\\Z'"),
        ("valid_until", "2026-02-30", "valid_until: must be a day as YYYY-MM-DD, got '2026-02-30'"),
        ("format", 0, "must begin with its format version (must be 'int' >= 1)"),
        ("format", True, "must begin with its format version (must be 'int', got 'bool')"),
    ],
)
def test_a_spoiled_value_is_named_with_its_path(path: str, value: object, said: str):
    message = fault_of(spoil(path, value))

    assert said in message


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("valid_until", "", "valid_until: must be 'str' matching"),
        ("programs/0/executables/0/target", {}, "programs[0].executables[0].target: must be one for 'cpu', got {}"),
        ("programs/0/executables/0/target", {"cpu": {}}, "programs[0].executables[0].target: must have isa, threads"),
        (
            "programs/0/executables/0/target",
            {"cuda": {}},
            "executables[0].target: must be one for 'cpu'",
        ),
        (
            "programs/0/executables/0/requires",
            {},
            "executables[0].requires.machine: must be there, of type str",
        ),
        ("programs/0/executables/0/requires/features", [["x"]], "requires.features: must be there, a list of texts"),
        (
            "programs/0/executables/0/memory/code",
            ...,
            "executables[0].memory: must have aliased, arguments",
        ),
        ("programs/0/executables/0/target", "x", "executables[0].target: must be a mapping, got 'x'"),
        ("combos/0/dimensions", [], "combos[0].dimensions: must be a mapping, got []"),
        ("model", None, "model: must be a mapping, got None"),
        ("combos/0/dimensions/vision_height", ..., "combos[0].dimensions: must be all of them"),
        ("combos/0/dimensions/batch_size", 0, "combos[0].dimensions: precompile.batch_size: must be an integer from 1"),
        ("combos/0/dimensions/batch_size", 2, "combos[0].key: must be that of its dimensions"),
        ("combos/0/dimensions/other", 2, "combos[0].dimensions: "),
        ("generation/eos_token_id/1", 2**31, "generation.eos_token_id[1]: must be 'int' <= 2147483647"),
        ("generation/eos_token_id/1", 16, "generation.eos_token_id: 16 is beyond the vocabulary of 16"),
        ("generation/num_return_sequences", 0, "generation.num_return_sequences: must be 'int' >= 1"),
        ("generation/num_return_sequences", 2**40, "generation.num_return_sequences: must be 'int' <= 2147483647"),
        ("generation/num_return_sequences", 2, "generation.num_return_sequences: 2 sequences, built are 1 rows"),
        ("generation/sampling/top_k", -2, "generation.sampling: sampling.top_k: must be an integer of at least 0"),
        ("generation/sampling/zeta", 1, "generation.sampling['zeta']: unknown name; known: temperature"),
        ("generation/logits", "some", "generation.logits: must be none or last or all, got 'some'"),
        ("arguments/1/dtype", "S4", "arguments[1].dtype: must be one of bool, uint8"),
        ("arguments/1/shape/0", 2**40, "of int32 has 140737488355328 bytes, at most 70368744177664 are allowed"),
        ("arguments/1/shape", [1] * 65, "arguments[1].shape: must be 'array' of length <= 64"),
        ("arguments/1/sharding/0", "model", "sharding: 'model' is no axis of the mesh {}"),
        ("arguments/1/shape/0", 2, "'input/tokens' has the shape [2, 32], batch_size is 1"),
        ("arguments/0/dtype", "int16", "takes int16[3] for 'weight/layers.0.scale', which is int8[3]"),
        ("arguments/0/donated", True, "uses up 'weight/layers.0.scale', which others take"),
        ("bindings/0/gives/1", "value/y", "program block: takes 'value/x', which nothing gives before"),
        ("bindings/1/gives/1", "output/other", "'output/other' has 2 axes, its phase says None"),
        ("bindings/1/gives/1", "output/logprob", "bindings[1].gives: a slot occurs twice"),
        ("bindings/0/takes/1", "input/other", "'input/other' has 2 axes, its phase says None"),
        ("bindings/0/takes/1", "gathered/x", "takes 'gathered/x', which nothing gives before"),
        ("bindings/0/takes/1", "source/other", "uses up 'source/other', which others take"),
        ("phases/prefill/outputs", {}, "has 1 axes, its phase says None"),
        ("phases/prefill/inputs/zeta", [], "does not take the input 'zeta' of its phase"),
        ("phases/prefill/outputs/zeta", [], "does not give the output 'zeta' of its phase"),
        ("entries/1", ..., "a language model has a phase 'decode' for each combo"),
        ("entries/0/chains", [], "entries[0].chains: must hold at least one chain"),
        ("images/unit", 2**40, "images: unit and channels must be at least 1"),
        ("images/token", 16, "images: token, before and after must be ids below 16"),
        ("programs/0/mesh", [["data", 2**31]], "programs[0].mesh[0][1]: must be 'int' <= 4096"),
        ("programs/0/mesh", [["data", 0]], "programs[0].mesh[0][1]: must be 'int' >= 1"),
        ("programs/0/mesh", [["data", 2**12], ["model", 2]], "programs[0].mesh: 8192 devices, at most 4096"),
        ("programs/0/mesh", [["data", 2], ["data", 2]], "programs[0].mesh: an axis occurs twice"),
    ],
)
def test_an_index_whose_records_do_not_agree_is_refused_with_the_place(path: str, value: object, said: str):
    assert said in fault_of(spoil(path, value))


def test_an_array_that_is_split_over_an_axis_twice_or_unevenly_is_refused():
    for sharding, said in ((["m", "m"], "splits over an axis twice"), (["m", None], "1 does not divide over m")):
        value = raw()
        value["programs"][0]["mesh"] = [["m", 2]]
        value["arguments"][1]["sharding"] = sharding
        value["arguments"][1]["shape"] = [2, 32] if sharding[1] else [1, 32]
        for entry in value["entries"]:
            entry["chains"][0]["mesh"] = [["m", 2]]

        assert said in fault_of(synthetic.closed(value))


def test_a_vocabulary_beyond_the_table_that_tokens_are_looked_up_in_is_refused():
    value = raw()
    value["weights"]["arrays"]["layers.0.scale"] |= {"shape": [15, 3]}
    value["arguments"][0] |= {"shape": [15, 3], "sharding": [None, None]}
    value["weights"]["arrays"]["layers.1.scale"] |= {"shape": [15, 3]}
    for phase in value["phases"].values():
        phase["outputs"] |= {name: [None, None] for name, axes in phase["outputs"].items() if axes == [None]}

    assert "the 15 rows that tokens are looked up in" in fault_of(synthetic.closed(value))


@pytest.mark.parametrize(
    ("path", "item"),
    [
        ("bindings", {"takes": ["value/x"], "gives": []}),
        ("entries/0/chains", {"platform": "cpu", "mesh": [], "calls": [[0, 0]] * 1000}),
        ("combos", {"key": "0" * 64, "dimensions": {"batch_size": 1}}),
        ("arguments", {"name": "x", "dtype": "int8", "shape": [0] * 64, "sharding": [None] * 64, "donated": False}),
        ("model/config/rates", []),
        ("model/config/rates", {}),
        ("generation/eos_token_id", 300),
        ("waivers", ""),
    ],
)
def test_opening_an_index_costs_a_few_times_its_bytes(path: str, item: object):
    data = spoil(path, [item] * ((2 << 20) // len(msgpack.packb(item))))

    tracemalloc.start()
    fault_of(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 24 * len(data)


def test_two_chains_for_one_place_are_refused():
    value = raw()
    value["entries"][1]["chains"] *= 2

    assert "entries[1].chains: two for one platform and mesh" in fault_of(synthetic.closed(value))


def test_one_blob_of_two_sizes_is_refused():
    value = raw()
    value["programs"][0]["executables"][0]["digest"] = value["programs"][0]["digest"]

    assert "programs[0].executables[0].bytes: the same blob has 18 bytes elsewhere" in fault_of(synthetic.closed(value))


@pytest.mark.parametrize("change", ["spare", "twice", "order"])
def test_arguments_other_than_encoding_gives_them_are_refused(change: str):
    value = raw()
    first, second = value["arguments"]
    value["arguments"] = {
        "spare": [first, second, second | {"name": "y"}],
        "twice": [first, second, first],
        "order": [second, first],
    }[change]
    if change == "order":
        value["programs"][0] |= {"arguments": [1, 0], "results": [1, 0]}

    assert "arguments: must be those of programs, each once, in order of first use" in fault_of(synthetic.closed(value))


@pytest.mark.parametrize(
    "row", [b"", b"\x80\xc0", b"\xa6", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000, b"\xcc\x01", "text", None]
)
@pytest.mark.parametrize("table", ["programs", "arguments", "chains"])
def test_a_row_that_is_no_document_is_refused_by_its_place(table: str, row: object):
    value = msgpack.unpackb(codec.encode(synthetic.index()))
    holder = value["entries"][0] if table == "chains" else value
    holder[table][0] = row

    assert f"{table}[0]" in fault_of(msgpack.packb(value))


def test_a_newer_format_is_refused_by_both_numbers_before_anything_else_is_read():
    data = msgpack.packb({"format": FORMAT + 1, "unheard": msgpack.ExtType(5, b"of")})

    with pytest.raises(MachineError, match=f"format version {FORMAT + 1}, this aot reads up to {FORMAT}"):
        codec.decode(data, "bundle b: index")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_an_index_that_is_cut_off_is_refused(share: float):
    data = codec.encode(synthetic.index())

    fault_of(data[: int(len(data) * share)])


def test_a_byte_after_the_end_is_refused():
    assert "trailing" in fault_of(codec.encode(synthetic.index()) + b"\xc0")


def test_another_spelling_of_the_same_index_is_refused():
    data = codec.encode(synthetic.index())
    longer = data.replace(b"\xa6format\x01", b"\xd9\x06format\x01")
    wider = data.replace(b"\xa6format\x01", b"\xa6format\xcc\x01")
    twice = data.replace(b"\xa3jax\xa6", b"\xa3jax\xa60.10.1\xa3jax\xa6").replace(b"versions\x82", b"versions\x83")

    assert longer != data != wider
    assert "canonical" in fault_of(longer)
    assert "canonical" in fault_of(wider)
    assert "canonical" in fault_of(twice)


@pytest.mark.parametrize(
    "tail",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of 2**32 - 1
        b"\xdf\xff\xff\xff\xff",  # a map
        b"\xdb\xff\xff\xff\xff",  # a string
        b"\xc6\xff\xff\xff\xff",  # binary data
        b"\xc9\xff\xff\xff\xff\x01",  # an extension
        b"\xdd\x00\x01\x00\x00" * 20_000,  # arrays of 65536 in each other
        b"\x91" * 100_000,
        b"\xc1",  # never used
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\xa2\xff\xfe",  # not UTF-8
    ],
)
def test_hostile_msgpack_is_refused(tail: bytes):
    fault_of(b"\x82\xa6format\x01\xa5model" + tail)


def test_random_bytes_in_an_index_are_refused_in_one_line_or_are_another_index():
    data = codec.encode(synthetic.index())
    draw = random.Random(0)
    messages = []

    for _ in range(400):
        spoiled = bytearray(data)
        spoiled[draw.randrange(len(data))] ^= draw.randrange(1, 256)
        try:
            assert codec.encode(codec.decode(bytes(spoiled), "bundle b: index")) == spoiled
        except (BundleError, MachineError) as error:
            messages.append(str(error))

    assert 0 < len(messages) < 400
    assert "\n" not in "".join(messages)


def test_ten_thousand_programs_are_read_and_proven_in_a_moment():
    small = synthetic.index()
    programs = tuple(dataclasses.replace(small.programs[0], name=str(number)) for number in range(10_000))
    data = codec.encode(dataclasses.replace(small, programs=programs))

    start = time.process_time()
    found = codec.decode(data, "x")

    assert len(found.programs) == 10_000
    assert time.process_time() - start < 3  # 0.7 s, 8 with a reader in Python


def test_combos_with_vision_of_a_language_model_need_what_it_makes_of_images():
    index = synthetic.index()
    seeing = Combo(**{**index.combos[0].dimensions, "vision_included": True})
    spoilt = dataclasses.replace(
        index, images=None, combos=(ComboRecord(seeing.key, seeing.dimensions()), *index.combos[1:])
    )
    spoilt = dataclasses.replace(spoilt, generation=dataclasses.replace(index.generation, num_return_sequences=1))

    with pytest.raises(Fault, match=r"images: must be there, combos\[0\] of a language model has vision"):
        consistency.check_index(spoilt)
    consistency.check_index(dataclasses.replace(spoilt, generation=None))
    with pytest.raises(Fault, match=r"entries: there is no phase 'encode' for combos\[0\], which has vision"):
        consistency.check_index(dataclasses.replace(spoilt, images=index.images))
