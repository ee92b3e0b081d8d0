import pytest
from hypothesis import given
from hypothesis import strategies as st

from aot import wire

# The messages that protobuf's documentation encodes by hand: 150 in field 1, "testing" in 2, the first one in 3.
EXAMPLE = bytes.fromhex("089601 120774657374696e67 1a03089601")


def test_fields_are_those_of_the_documented_example():
    found = [(field.number, field.wire, field.value) for field in wire.fields(EXAMPLE)]

    assert found == [(1, wire.VARINT, b"\x96\x01"), (2, wire.BYTES, b"testing"), (3, wire.BYTES, b"\x08\x96\x01")]


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3))
def test_a_varint_reads_back(value, behind):
    data = wire.varint(value)

    assert wire.read_varint(b"x" + data + behind, 1) == (value, 1 + len(data))


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.binary(max_size=300))))
def test_delimited_fields_read_back_and_join_to_the_same_bytes(parts):
    message = wire.join_fields(wire.delimited(number, payload) for number, payload in parts)

    assert [(field.number, field.value) for field in wire.fields(message)] == parts
    assert wire.join_fields(wire.fields(message)) == message


@pytest.mark.parametrize(
    "hostile",
    [
        EXAMPLE[:-1],
        b"\x0a",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\xff" * 30,
        b"\x00\x00",
        b"\x0b",
        b"\x0d\x00",
    ],
)
def test_bytes_that_are_no_message_are_refused(hostile):
    with pytest.raises(ValueError, match="byte"):
        wire.fields(hostile)
