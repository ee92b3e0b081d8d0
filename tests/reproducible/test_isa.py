import platform
import re
import subprocess
from pathlib import Path

import pytest
import synthetic

from aot import cpuid, isa
from aot.errors import InputError
from aot.runtime.fitting import fit

LOADER = Path("/lib64/ld-linux-x86-64.so.2")

TWO_PROCESSORS = """processor\t: 0
model name\t: A CPU
flags\t\t: fpu sse sse2 avx avx2
bugs\t\t: spectre_v1
processor\t: 1
flags\t\t: fpu sse sse2 avx
"""


def needs(name: str) -> dict[str, object]:
    baseline = isa.find_baseline(name)
    return {"machine": baseline.machine, "features": list(baseline.kernel)}


def test_a_higher_isa_promises_all_of_a_lower_one():
    low, high = isa.find_baseline("avx2"), isa.find_baseline("avx512")

    assert isa.isa_names() == ("avx2", "avx512")
    assert set(low.llvm) < set(high.llvm)
    assert set(low.kernel) < set(high.kernel)
    assert set(high.kernel) - set(low.kernel) == {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@pytest.mark.parametrize("name", isa.isa_names())
def test_lists_are_sorted_and_name_the_same_number_of_features(name):
    baseline = isa.find_baseline(name)

    assert list(baseline.llvm) == sorted(set(baseline.llvm))
    assert list(baseline.kernel) == sorted(set(baseline.kernel))
    assert len(baseline.llvm) - 1 == len(baseline.kernel) - 2  # crc32 has no flag; fpu and syscall have no LLVM name


def test_an_unknown_isa_is_refused_by_name():
    with pytest.raises(InputError, match=r"unknown isa 'avx3', allowed are avx2, avx512; declare"):
        isa.find_baseline("avx3")


@pytest.mark.skipif(platform.machine() != "x86_64" or not LOADER.exists(), reason="asks glibc's loader for x86-64")
@pytest.mark.parametrize("name", isa.isa_names())
def test_this_machine_has_an_isa_exactly_if_glibc_says_so(name):
    text = subprocess.run([str(LOADER), "--help"], capture_output=True, text=True, check=True).stdout
    if "x86-64-v" not in text:
        pytest.skip("this glibc does not say")

    supported = re.search(rf"^\s*{isa.find_baseline(name).level} \(supported", text, re.MULTILINE) is not None

    assert (isa.missing_features(needs(name), isa.this_machine()) == ()) == supported


def test_a_machine_has_the_flags_that_all_of_its_processors_have():
    assert isa.cpu_flags(TWO_PROCESSORS) == {"fpu", "sse", "sse2", "avx"}


@pytest.fixture
def hidden(monkeypatch, tmp_path):
    """A system that hides /proc/cpuinfo, as systemd's ProcSubset=pid does."""
    monkeypatch.setattr(isa, "_CPUINFO", tmp_path / "none")


@pytest.mark.skipif(not cpuid.cpuid_features(), reason="needs glibc 2.33 on x86-64")
def test_where_cpuinfo_is_hidden_the_cpu_itself_is_asked_and_says_the_same(hidden):
    known = {name for name in isa.isa_names() if not isa.missing_features(needs(name), isa.this_machine())}
    asked = isa.this_machine.__wrapped__()

    assert known == {name for name in isa.isa_names() if not isa.missing_features(needs(name), asked)}
    assert asked.features <= isa.this_machine().features
    assert asked.features >= isa.this_machine().features & {*isa.find_baseline("avx512").kernel, "avx_ne_convert"}


def test_a_machine_that_nobody_can_ask_has_no_features_and_lacks_none_by_name(hidden, monkeypatch):
    monkeypatch.setattr(cpuid, "cpuid_features", frozenset)
    monkeypatch.setattr(isa, "this_machine", isa.this_machine.__wrapped__)
    executable = synthetic.index().programs[0].executables[0]

    assert isa.this_machine() == isa.Machine(platform.machine(), frozenset())
    if platform.machine() == "x86_64":
        assert fit.misfit_cause(executable) == (
            "built for cpu avx2, and what this cpu has is not to be found out (/proc/cpuinfo is hidden)"
        )


def test_that_cpuinfo_is_hidden_is_remarked_for_what_runs(hidden):
    executable = synthetic.index().programs[0].executables[0]

    assert "/proc/cpuinfo is hidden, without which XLA's kernels may fail" in fit.remark_on(executable)


def test_missing_names_each_feature_that_the_machine_lacks():
    machine = isa.Machine("x86_64", frozenset(isa.find_baseline("avx2").kernel) - {"fma", "avx2"})

    assert isa.missing_features(needs("avx2"), machine) == ("avx2", "fma")


def test_missing_names_the_architecture_alone_on_another_one():
    assert isa.missing_features(needs("avx2"), isa.Machine("aarch64", frozenset({"asimd"}))) == ("x86_64",)
