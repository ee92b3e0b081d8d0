"""Targets are read from what manifests and indexes have of them, and written in the same form."""

import pytest

from aot.targets import CpuTarget, CudaTarget, TpuTarget, target_of

WRITTEN = (
    ({"cpu": {"isa": "avx2", "threads": 32}}, CpuTarget("avx2", 32)),
    (
        {
            "cpu": {
                "isa": "avx512",
                "threads": 2,
                "arithmetic": "portable",
                "devices": 4,
                "mesh": {"model": 2, "data": 2},
            }
        },
        CpuTarget("avx512", 2, arithmetic="portable", devices=4, mesh={"model": 2, "data": 2}),
    ),
    (
        {"cuda": {"device": "h200", "xla_flags": ["--a=1"], "tuning": {"digest": "sha256:0", "bytes": 1}}},
        CudaTarget("h200", xla_flags=("--a=1",), tuning={"digest": "sha256:0", "bytes": 1}),
    ),
    ({"tpu": {"topology": "v5e:2x2", "mesh": {"data": 4}}}, TpuTarget("v5e:2x2", mesh={"data": 4})),
)


@pytest.mark.parametrize(("plain", "target"), WRITTEN, ids=["cpu", "mesh", "cuda", "tpu"])
def test_a_target_is_written_as_it_was_read_in_the_same_order(plain, target):
    assert target_of(plain) == target
    assert repr(target.plain()) == repr(plain)


def test_options_of_a_newer_release_are_kept():
    plain = {"cpu": {"isa": "avx2", "threads": 32, "colour": "red"}}

    assert target_of(plain).plain() == plain


def test_a_target_is_named_by_what_tells_it_from_others_of_its_platform():
    assert [target.name for _, target in WRITTEN] == ["avx2", "avx512", "h200", "v5e:2x2"]
