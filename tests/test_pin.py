import shutil
import subprocess
from pathlib import Path

import native
import pytest

from aot import isa
from aot.builder import canonical, instructions, pin
from aot.errors import AotError

AVX2 = isa.baseline("avx2")


def test_attributes_name_the_level_and_the_features_for_each_function():
    lines = pin.attributes(["add", "mul.1"], AVX2).splitlines()

    assert {line.split(",")[0] for line in lines} == {
        f"{k}{p}" for k in ("add", "mul.1") for p in ("", "_wrapped", "_impl")
    }
    assert {line.split(",", 1)[1].split("=")[0] for line in lines} == {"target-cpu", "target-features"}
    assert "mul.1_impl,target-cpu=x86-64-v3" in lines


def test_preferences_go_to_the_compiler_and_not_into_what_machines_are_asked_for():
    avx512 = isa.baseline("avx512")

    assert ",+prefer-no-gather," in pin.attributes(["add"], avx512)
    assert not set(avx512.preferences) & {*avx512.llvm, *avx512.kernel}


@pytest.mark.skipif("gfni" not in isa.machine().features, reason="shows on a CPU with GFNI")
@pytest.mark.parametrize("name", isa.names())
def test_a_shift_that_xla_builds_with_gfni_keeps_to_the_isa_when_held(name):
    if name == "avx512" and "avx512f" not in isa.machine().features:
        pytest.skip("this machine has no avx512")
    baseline, programs = isa.baseline(name), native.built(name)
    held, free = (canonical.executable(programs[program], baseline) for program in ("shift", "free"))

    instructions.check(held, baseline)
    with pytest.raises(AotError, match=rf"'vgf2p8affineqb' .+ in function '.*shift.*' is outside {name}, "):
        instructions.check(free, baseline)


@pytest.fixture(scope="module")
def zen3(tmp_path_factory):
    library, cc = tmp_path_factory.mktemp("cpuid") / "cpuid.so", shutil.which("cc")
    source = Path(__file__).with_name("cpuid.c")
    if not cc or subprocess.run([cc, "-O1", "-shared", "-fPIC", "-o", library, source], capture_output=True).returncode:
        pytest.skip("needs a C compiler for Linux on x86-64")
    if subprocess.run(["true"], env={"LD_PRELOAD": str(library)}).returncode:
        pytest.skip("this machine cannot disguise its CPU")
    return str(library)


@pytest.mark.parametrize("program", ["mixed", "shift"])
def test_held_code_is_the_same_whichever_cpu_builds_it(program, zen3):
    here, there = native.built("avx2")[program], native.built("avx2", preload=zen3)[program]

    assert canonical.compiled_for(there).cpu == "znver3"
    assert canonical.executable(here, AVX2) == canonical.executable(there, AVX2)
