"""The same bytes from every x86-64 CPU: small programs, compiled as this CPU, as others, and under an emulator.

A disguise answers `cpuid` as the other CPU does, what that adds as well as what it lacks. Programs are those of
`small_programs.py`; an emulated worker builds a combo of the tiny model.
"""

import functools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import disguise
import pytest
from commands import aot, built
from other_cpus import EMULATED, emulator, needs_emulator, printed
from places import ROOT, TINY

from aot import isa
from aot.builder.compiling import cpu, pin
from aot.bundle import store
from aot.errors import MachineError
from aot.targets import CpuTarget, Target

FAST = CpuTarget("avx2", 32)
PORTABLE = CpuTarget("avx2", 32, arithmetic="portable")
WIDE = CpuTarget("avx512", 32)
HELD = cpu.way() is pin

CPUS = {
    "haswell": "haswell",
    "skylake-avx512": "skylake-avx512",
    "sapphirerapids": "sapphirerapids",
    "arrowlake": "arrowlake-s",
    "znver2": "znver2",
    "znver3": "znver3",
    "znver4": "znver4",
    "znver5": "znver5",
}
"""Disguises, and LLVM's names of the CPUs."""
BEYOND = ("skylake-avx512", "sapphirerapids", "znver4", "znver5")
"""Those that a compiler held to AVX2 takes for the last one without AVX-512."""
LOOPS = ("small while", "steps", "bisection", "draws")
"""Those that have loops of small arrays."""
SENSITIVE = ("norms", "bfloat16 norms", "bfloat16 sort", "from narrow", "rotary", "x @ w", "bfloat16 rows", *LOOPS)
"""Those in which CPUs have differed, or might: an emulator takes minutes for all, so `small_programs.py` by hand."""
AT_ONCE = ("znver4", "sapphirerapids") if "Intel" in isa.processor_name() else ("sapphirerapids", "znver4")
"""One of each maker, the other one's first; both have what the other lacks."""
MARKS = {AT_ONCE[0]: (), AT_ONCE[1]: pytest.mark.thorough}
SEVERAL = [pytest.param(name, marks=MARKS.get(name, pytest.mark.slow)) for name in CPUS]


def compiled(target: Target, *names: str, **how: Any) -> Any:
    """What a fresh process makes of small programs, of all or of some: the CPU that it sees, and digests by name."""
    return json.loads(printed("small_programs.py", json.dumps(target.plain()), *names, **how))


@functools.cache
def native(target: Target, *names: str) -> Any:
    """The same on this CPU as it is, once."""
    return compiled(target, *names)


def known(name: str) -> str:
    return "haswell" if HELD and name in BEYOND else CPUS[name]


def differing(found: Any, other: Any) -> list[str]:
    return [name for name in found["digests"] | other["digests"] if _at(found, name) != _at(other, name)]


def _at(found: Any, name: str) -> str | None:
    return found["digests"].get(name)


@pytest.mark.parametrize("name", SEVERAL)
def test_a_program_has_one_digest_whichever_cpu_compiles_it(name: str, wardrobe: dict[str, str]) -> None:
    if HELD and name == "arrowlake":
        pytest.skip("this jaxlib is not built with on such a CPU, which has a test of its own")
    with ThreadPoolExecutor(2) as pool:
        disguised, own = pool.submit(compiled, FAST, CPUID_AS=name, **wardrobe), pool.submit(native, FAST)
    found = disguised.result()

    assert (found["machine"], found["amd"]) == (known(name), name.startswith("znver"))
    assert len(found["digests"]) > 40
    assert differing(found, own.result()) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", [PORTABLE, *([] if HELD else [WIDE])], ids=["portable", "avx512"][: 2 - HELD])
@pytest.mark.parametrize("name", ["sapphirerapids", "znver2"])
def test_other_targets_have_one_digest_too(name: str, target: Target, wardrobe: dict[str, str]) -> None:
    found = compiled(target, CPUID_AS=name, **wardrobe)

    assert (found["machine"], found["amd"]) == (known(name), name.startswith("znver"))
    assert differing(found, native(target)) == []


@pytest.mark.skipif(not HELD, reason="this jaxlib names its target, and needs no refusal")
def test_a_cpu_that_is_refused_would_give_other_bytes(
    wardrobe: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("bfloat16 sort", "float32 sort")
    found = compiled(FAST, *names, CPUID_AS="arrowlake", **wardrobe)
    baseline = isa.find_baseline("avx2")
    machine = isa.Machine("x86_64", frozenset({*baseline.kernel, "avx_ne_convert"}))
    monkeypatch.setattr(isa, "this_machine", lambda: machine)

    assert differing(found, native(FAST, *names)) == ["bfloat16 sort"]
    with pytest.raises(MachineError, match="avx_ne_convert"):
        cpu.check(FAST)


@pytest.mark.parametrize("threads", [4, *[pytest.param(n, marks=pytest.mark.slow) for n in (2, 8, 32)]])
def test_a_small_loop_has_one_digest_in_five_builds(threads: int) -> None:
    target = CpuTarget("avx2", threads)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: compiled(target, *LOOPS), range(5)))

    assert [differing(each, found[0]) for each in found] == [[]] * 5


@pytest.mark.slow
@needs_emulator
@pytest.mark.parametrize("name", EMULATED)
def test_an_emulated_cpu_gives_the_digests_of_this_one(name: str) -> None:
    found = compiled(FAST, *SENSITIVE, command=emulator(name))

    assert found["machine"] == EMULATED[name]
    assert differing(found, native(FAST, *SENSITIVE)) == []


DISGUISED = """\
import os
os.environ.update({variables!r})
import disguise
disguise.put_on({name!r})
"""
"""What starts every process of a build, for workers take no variables but their own."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["haswell", "znver2"])  # a build runs what it made, so with less than any CPU has
def test_the_tiny_bundle_has_one_digest_whichever_cpu_builds_it(
    name: str, tiny_bundle: Path, wardrobe: dict[str, str], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "aot", source / "aot", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(disguise.__file__, source)
    (source / "sitecustomize.py").write_text(DISGUISED.format(variables=wardrobe, name=name))
    done = aot("build", TINY, "-o", tmp_path / "bundle", "--no-cache", "--jobs", 2, PYTHONPATH=str(source))

    assert done.code == 0, done.err
    assert store.open(tmp_path / "bundle").digest == store.open(tiny_bundle).digest


ONE_COMBO = """\
name: one
model: {checkpoint: tiny/, dtype: float32}
precompile: {batch_size: 1, prefill_length: 32}
platforms: [cpu]
"""


@pytest.fixture(scope="module")
def one_combo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A manifest of one combo of the tiny model, and its bundle as this CPU builds it."""
    home = tmp_path_factory.mktemp("one")
    shutil.copytree(TINY.parent / "tiny", home / "tiny")
    (home / "one.yaml").write_text(ONE_COMBO)
    return home / "one.yaml", built(home / "one.yaml", home / "bundle")


@pytest.mark.slow
@needs_emulator
@pytest.mark.parametrize("name", EMULATED)
def test_an_audit_on_an_emulated_cpu_finds_the_bundle_the_same(name: str, one_combo: tuple[Path, Path]) -> None:
    manifest, bundle = one_combo
    done = aot("audit", bundle, "--manifest", manifest, "--cpu", name, "--json")

    assert (done.code, done.document["same"]) == (0, True), done.err
    assert [environment["cpu"] for environment in done.document["environments"]] == [name]
    assert store.open(bundle).index.combos


@needs_emulator
def test_a_cpu_that_the_emulator_does_not_know_is_refused_before_anything_is_built(
    one_combo: tuple[Path, Path],
) -> None:
    manifest, bundle = one_combo
    done = aot("audit", bundle, "--manifest", manifest, "--cpu", "Pentium9")

    assert (done.code, done.out) == (2, "")
    assert "--cpu Pentium9: qemu-x86_64 knows no such CPU" in done.err


def test_without_the_emulator_an_audit_says_what_to_install(one_combo: tuple[Path, Path], tmp_path: Path) -> None:
    manifest, bundle = one_combo
    done = aot("audit", bundle, "--manifest", manifest, "--cpu", "Haswell", PATH=str(tmp_path))

    assert (done.code, done.out) == (2, "")
    assert "apt-get install qemu-user" in done.err


def test_a_machine_of_one_core_is_refused_before_the_work_and_the_process_stays_held_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[object] = []
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(cpu.os, "sched_setaffinity", lambda _, cores: held.append(cores))

    with pytest.raises(MachineError, match="lets a process use one core, and code is made for two; build elsewhere"):
        cpu.check(FAST)
    assert held[-1] == {0}
