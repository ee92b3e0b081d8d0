import dataclasses
import random
import time
from concurrent.futures import ThreadPoolExecutor

import msgpack
import pytest
import synthetic

from aot import digest
from aot.bundle import codec, consistency, document
from aot.bundle.records import FORMAT, ChainRecord, ComboRecord, EntryRecord, Index
from aot.errors import BundleError, MachineError


def raw() -> dict:
    """The index as plain msgpack values, to be spoiled."""
    return synthetic.opened(codec.encode(synthetic.index()))


def read(data: bytes, where: str = "bundle b: index") -> Index:
    """The index, all of it read and checked."""
    index = codec.decode(data, where)
    codec.check(index, digest.of(data), where)
    return index


def fault_of(data: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        read(data)
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
        ("programs/0/bytes", "8", "programs[0].bytes: must be an integer of at least 0, got '8'"),
        ("programs/0/bytes", True, "programs[0].bytes: must be an integer of at least 0, got True"),
        ("programs/0/bytes", 8.0, "programs[0].bytes: must be an integer of at least 0, got 8.0"),
        ("programs/0/bytes", -1, "programs[0].bytes: must be an integer of at least 0, got -1"),
        ("programs/0/bytes", None, "programs[0].bytes: must be an integer of at least 0, got None"),
        ("arguments/1/shape/0", -1, "arguments[1].shape[0]: must be an integer of at least 0"),
        ("arguments/1/sharding/1", 3, "arguments[1].sharding[1]: must be a string or an array or null, got 3"),
        ("arguments/1/donated", 1, "arguments[1].donated: must be true or false, got 1"),
        ("arguments/1/name", b"x", "arguments[1].name: must be a string, got b'x'"),
        ("arguments/1/donated", ..., "arguments[1]: lacks the field 'donated'"),
        ("programs/0/extra", 1, "programs[0]: unknown field 'extra'; known: digest, bytes"),
        ("programs/0", [], "programs[0]: must be a record, got ()"),
        (
            "programs/0/arguments/1",
            2,
            "programs[0].arguments[1]: must be a position in arguments, of which there are 2",
        ),
        ("programs/0/arguments/1", -1, "programs[0].arguments[1]: must be a position in arguments, of which there are"),
        ("programs/0/results/0", {}, "programs[0].results[0]: must be a position in arguments, of which there are 2"),
        ("programs/0/results", 0, "programs[0].results: must be an array, got 0"),
        ("arguments", {}, "arguments: must be an array, got {}"),
        ("arguments", ..., "must end with the field 'arguments'"),
        ("arguments/0", 5, "arguments[0]: must be a record, got 5"),
        ("programs/0/executables/0/digest", "sha256:", "programs[0].executables[0].digest: must be 'sha256:' and"),
        ("programs", {}, "programs: must be an array, got {}"),
        ("versions", [], "versions: must be a mapping, got ()"),
        ("versions/jax", 1, "versions['jax']: must be a string, got 1"),
        ("versions/aaa", "1", "versions: names must be sorted"),
        ("model/config/zeta", float("nan"), "model['config']['zeta']: must be a finite number, got nan"),
        ("model/config/zeta", [1, {"z": 0, "a": 0}], "model['config']['zeta'][1]: names must be sorted"),
        ("model/config/zeta", b"", "model['config']['zeta']: must be a string or a boolean or an integer or a number"),
        ("generation/sampling/top_p", float("inf"), "generation.sampling['top_p']: must be a finite number, got inf"),
        (
            "generation/num_return_sequences",
            "2",
            "generation.num_return_sequences: must be an integer or a mapping, got '2'",
        ),
        ("generation/eos_token_id/1", None, "generation.eos_token_id[1]: must be an integer of at least 0, got None"),
        ("generation", 0, "generation: must be a mapping or null, got 0"),
        ("images/token", -1, "images.token: must be an integer of at least 0, got -1"),
        ("images/unit", 0, "images: unit and channels must be at least 1, got 0 and 3"),
        ("images/rotary", "spiral", "images.rotary: must be one of sequence, grid, got 'spiral'"),
        ("images/recipe/0/fit", "pad", "images.recipe: must resize once, with a fit of stretch or cover, got ['pad']"),
        ("images/recipe/0/step", "crop", "images.recipe: must resize once, with a fit of stretch or cover, got []"),
        ("phases/prefill/partial", ["embeddings"], "phases['prefill'].partial: 'embeddings' is none of its inputs"),
        ("partitions/0/mesh/0", ["a"], "partitions[0].mesh[0]: must be an array of 2, got ('a',)"),
        ("partitions/0/matches/0/1", "1", "partitions[0].matches[0][1]: must be an integer of at least 0, got '1'"),
        ("entries/1/chains/0/calls/1/1", "0", "entries[1].chains[0].calls[1][1]: must be an integer of at least 0"),
        ("weights/arrays/embed/blob", 1, "weights.arrays['embed'].blob: no blob 1, there are 1"),
        ("entries/1/combo", 2, "entries[1].combo: there is no combo 2, there are 2"),
        ("entries/1/phase", "train", "entries[1].phase: must be one of ['decode', 'prefill'], got 'train'"),
        ("entries/1/phase", "prefill", "entries[1]: combo 0 has two entries for the phase 'prefill'"),
        ("entries/1/chains/0/calls/0", [1, 0], "entries[1].chains[0].calls: there is no program 1, there are 1"),
        ("entries/1/chains/0/calls/0", [0, 2], "entries[1].chains[0].calls: there is no binding 2, there are 2"),
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
        ("programs/0/digest", "sha256:../../etc", "programs[0].digest: must be 'sha256:' and 64 lower-case hex"),
        ("weights/blobs/0/digest", "sha256:" + "A" * 64, "weights.blobs[0].digest: must be 'sha256:'"),
        (
            "tokenizer",
            {"../../passwd": {"digest": "sha256:" + "0" * 64, "bytes": 0}},
            "tokenizer: must be a plain file",
        ),
        ("combos/0/key", "xyz", "combos[0].key: must be 64 lower-case hex digits, got 'xyz'"),
        ("valid_until", "2026-02-30", "valid_until: must be a day as YYYY-MM-DD, got '2026-02-30'"),
        ("format", 0, "must begin with its format version, got 'format': 0"),
        ("format", True, "must begin with its format version, got 'format': True"),
    ],
)
def test_a_spoiled_value_is_named_with_its_path(path: str, value: object, said: str):
    message = fault_of(spoil(path, value))

    assert said in message


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


def test_a_fault_in_a_program_is_told_when_it_is_used_and_again_and_hinders_no_other():
    other = dataclasses.replace(synthetic.index().programs[0], name="other")
    index = dataclasses.replace(synthetic.index(), programs=(*synthetic.index().programs, other))
    value = synthetic.opened(codec.encode(index))
    value["programs"][0]["bytes"] = "8"
    decoded = codec.decode(synthetic.closed(value), "bundle b: index")

    assert decoded.programs[1] == other
    for use in (lambda: decoded.programs[0], lambda: decoded.entries[0].chains[0], lambda: list(decoded.programs)):
        with pytest.raises(BundleError, match=r"^bundle b: index: programs\[0\]\.bytes: must be an integer"):
            use()


def test_decoding_reads_neither_programs_nor_chains_and_using_one_reads_what_it_names(monkeypatch: pytest.MonkeyPatch):
    small = synthetic.index()
    programs = tuple(dataclasses.replace(small.programs[0], name=str(number)) for number in range(100))
    data = codec.encode(dataclasses.replace(small, programs=programs))
    read = []
    unpack = document.unpack
    monkeypatch.setattr(document, "unpack", lambda packed: read.append(len(packed)) or unpack(packed))

    index = codec.decode(data, "x")
    at_first = list(read)
    index.entries[0].chains[0]

    assert at_first == [len(data)]
    assert len(read) == 1 + 4  # the chain, its program, and that one's two arguments


def test_threads_that_use_an_index_at_once_get_equal_records():
    index = codec.decode(codec.encode(synthetic.index()), "x")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: (index.programs[0], index.entries[0].chains[0]), range(64)))

    expected = synthetic.index().programs[0], synthetic.index().entries[0].chains[0]
    assert all(records == expected for records in found)


def test_a_table_is_a_sequence_like_the_tuple_that_it_was_made_from():
    chains = tuple(ChainRecord("cpu", (("data", size),), ((0, 0),)) for size in range(1, 5))
    entry = EntryRecord(0, "prefill", chains)
    programs = tuple(dataclasses.replace(synthetic.index().programs[0], mesh=chain.mesh) for chain in chains)
    index = dataclasses.replace(synthetic.index(), programs=programs, entries=(entry,))
    found = codec.decode(codec.encode(index), "x").programs

    assert (len(found), found[-1], found[1:3], tuple(found)) == (4, programs[-1], programs[1:3], programs)
    assert found[::-1] == programs[::-1]
    assert found == programs
    with pytest.raises(IndexError):
        found[4]


def test_a_newer_format_is_refused_by_both_numbers_before_anything_else_is_read():
    data = msgpack.packb({"format": FORMAT + 1, "unheard": msgpack.ExtType(5, b"of")})

    with pytest.raises(MachineError, match=f"format version {FORMAT + 1}, this aot reads up to {FORMAT}"):
        codec.decode(data, "bundle b: index")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_an_index_that_is_cut_off_is_refused(share: float):
    data = codec.encode(synthetic.index())

    fault_of(data[: int(len(data) * share)])


def test_a_byte_after_the_end_is_refused():
    assert "goes on after its end" in fault_of(codec.encode(synthetic.index()) + b"\xc0")


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
            assert codec.encode(read(bytes(spoiled))) == spoiled
        except (BundleError, MachineError) as error:
            messages.append(str(error))

    assert 0 < len(messages) < 400
    assert "\n" not in "".join(messages)


def test_an_index_of_a_thousand_entries_decodes_far_below_the_time_that_importing_jax_takes():
    small = synthetic.index()
    combos = tuple(ComboRecord(f"{i:064x}", {"batch_size": i}) for i in range(500))
    chain = ChainRecord("cpu", {}, ((0, 0), (0, 1)) * 13)
    entries = tuple(EntryRecord(i, phase, (chain,)) for i in range(500) for phase in ("decode", "prefill"))
    data = codec.encode(dataclasses.replace(small, combos=combos, entries=entries))

    start = time.perf_counter()
    codec.decode(data, "x")

    assert time.perf_counter() - start < 0.5  # 15 ms on an idle machine


def test_combos_with_vision_of_a_language_model_need_what_it_makes_of_images():
    index = synthetic.index()
    seeing = ComboRecord(index.combos[0].key, {**index.combos[0].dimensions, "vision_included": True})
    spoilt = dataclasses.replace(index, images=None, combos=(seeing, *index.combos[1:]))

    with pytest.raises(ValueError, match=r"images: must be there, combos\[0\] of a language model has vision"):
        consistency.check(spoilt)
    consistency.check(dataclasses.replace(spoilt, generation=None))
