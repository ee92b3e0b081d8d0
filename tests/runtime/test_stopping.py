import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aot.errors import InputError
from aot.runtime.prompting.stopping import MOST_CHARACTERS, MOST_STRINGS, Stops

AB = st.text("ab", max_size=12)


def begins(text, strings):
    return min((place for string in strings if (place := text.find(string)) >= 0), default=None)


def held(text, string):
    return max(length for length in range(len(string)) if text.endswith(string[:length]))


@given(st.lists(AB.filter(bool), max_size=3), st.lists(AB, max_size=6))
def test_the_first_string_is_found_however_the_text_is_cut(strings, pieces):
    stops, text = Stops(strings), ""
    matched = stops.start

    for piece in pieces:
        matched, begin = stops.read(matched, piece)
        before, text = len(text), text + piece
        assert (None if begin is None else before + begin) == begins(text, strings)
        if begin is not None:
            break
        assert matched == tuple(held(text, string) for string in strings)


@pytest.mark.parametrize("string", ["a" * MOST_CHARACTERS, "ab" * (MOST_CHARACTERS // 2), "a" * 30_000 + "b"])
def test_the_longest_strings_take_little_memory_and_time(string):
    text, start = string[:-1] * 2 + "c" + string, time.process_time()
    tracemalloc.start()
    try:
        stops = Stops([string])
        _, begin = stops.read(stops.start, text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert begin == text.find(string)
    assert peak < 16 << 20
    assert time.process_time() - start < 5


@pytest.mark.parametrize("strings", [["a"] * (MOST_STRINGS + 1), ["a" * MOST_CHARACTERS, "b"], ["a" * 10**7]])
def test_more_or_longer_strings_are_refused_with_the_bound(strings):
    with pytest.raises(InputError, match="above the limit of 256 strings and 65536 characters; give fewer or shorter"):
        Stops(strings)
