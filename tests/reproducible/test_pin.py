import native
import pytest

from aot import isa
from aot.builder.compiling import canonical, instructions, pin, topology
from aot.errors import AotError, MachineError
from manifests import ISAS

AVX2 = isa.find_baseline("avx2")


def test_attributes_name_the_level_and_the_features_for_each_function():
    lines = pin.attributes(["add", "mul.1"], AVX2).splitlines()

    assert {line.split(",")[0] for line in lines} == {
        f"{k}{p}" for k in ("add", "mul.1") for p in ("", "_wrapped", "_impl")
    }
    assert {line.split(",", 1)[1].split("=")[0] for line in lines} == {"target-cpu", "target-features"}
    assert "mul.1_impl,target-cpu=x86-64-v3" in lines


def test_preferences_go_to_the_compiler_and_not_into_what_machines_are_asked_for():
    avx512 = isa.find_baseline("avx512")

    assert ",+prefer-no-gather," in pin.attributes(["add"], avx512)
    assert not set(avx512.preferences) & {*avx512.llvm, *avx512.kernel}


@pytest.mark.skipif("gfni" not in isa.this_machine().features, reason="shows on a CPU with GFNI")
@pytest.mark.parametrize("name", ISAS)
def test_a_shift_that_xla_builds_with_gfni_keeps_to_the_isa_when_held(name):
    baseline, programs = isa.find_baseline(name), native.built(name)
    held, free = (canonical.executable(programs[program], baseline) for program in ("shift", "free"))

    instructions.check_instructions(held, baseline)
    with pytest.raises(AotError, match=rf"'vgf2p8affineqb' .+ in function '.*shift.*' is outside {name}, "):
        instructions.check_instructions(free, baseline)


@pytest.mark.parametrize("name", isa.isa_names())
def test_a_cpu_that_the_compiler_cannot_be_held_on_is_refused_by_name(name, monkeypatch):
    baseline = isa.find_baseline(name)
    here = isa.Machine(baseline.machine, frozenset({*baseline.kernel, "avx_ne_convert"}))
    monkeypatch.setattr(isa, "this_machine", lambda: here)

    with pytest.raises(MachineError, match=rf"^target cpu {name}: .* avx_ne_convert, as this one, .* newer jaxlib"):
        pin.check(baseline)
    topology.check(baseline)


def test_a_cpu_without_the_isa_compiles_for_it_where_it_can_be_named_and_not_where_it_is_held(monkeypatch):
    monkeypatch.setattr(isa, "this_machine", lambda: isa.Machine("x86_64", frozenset(AVX2.kernel)))

    topology.check(isa.find_baseline("avx512"))
    with pytest.raises(
        MachineError, match=r"^target cpu avx512: .* lacks avx512bw, .*; build there, with a newer jaxlib"
    ):
        pin.check(isa.find_baseline("avx512"))


@pytest.mark.parametrize("way", [pin, topology])
def test_another_architecture_compiles_for_no_x86_64(way, monkeypatch):
    monkeypatch.setattr(isa, "this_machine", lambda: isa.Machine("aarch64", frozenset({"asimd"})))

    with pytest.raises(MachineError, match=r"^target cpu avx2: .*(x86_64)"):
        way.check(AVX2)
