"""Faults are collected in order, each once, and reported at once."""

import pytest

from aot.errors import InputError, ManifestError
from aot.faults import Faults


def test_faults_are_raised_together_in_order_each_once():
    faults = Faults()

    for place, text in (("a:1", "is odd"), ("a:2", "is even"), ("a:1", "is odd")):
        faults.add(place, text)

    with pytest.raises(ManifestError, match=r"^a:1: is odd\na:2: is even$"):
        faults.raise_all()


def test_the_lines_of_an_error_become_faults_of_a_place_or_keep_their_own():
    faults = Faults()

    with faults.collecting("a:1"):
        raise InputError("is odd\nis even")
    with faults.collecting():
        raise InputError("b: is odd")

    assert faults.lines == ("a:1: is odd", "a:1: is even", "b: is odd")


def test_no_faults_raise_nothing_and_other_errors_pass():
    faults = Faults()

    with pytest.raises(ZeroDivisionError), faults.collecting("a:1"):
        raise ZeroDivisionError
    faults.raise_all()

    assert faults.lines == ()
