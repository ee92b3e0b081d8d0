import platform

import native
import pytest

from aot import isa, wire
from aot.builder.compiling import canonical, instructions
from aot.errors import AotError

AVX2, AVX512 = isa.find_baseline("avx2"), isa.find_baseline("avx512")

# Machine code and names by GNU binutils 2.40.
IN_BOTH = {
    "addps xmm": "0f58c8", "vaddps ymm": "c5f458d0", "vpsllvd ymm": "c4e27547d0", "vfmadd213ps ymm": "c4e275a8d0",
    "vcvtph2ps ymm": "c4e27d13c8", "vpgatherdd ymm": "c4e27d901488", "popcnt": "f30fb8d8", "lzcnt": "f30fbdd8",
    "tzcnt": "f30fbcd8", "mulx": "c4e263f6c8", "rorx": "c4e37bf0d803", "movbe": "0f38f008", "crc32": "f20f38f1d8",
    "cmpltps xmm": "0fc2c801", "vcmpltps ymm": "c5f4c2d001", "vzeroupper": "c5f877", "lock add": "f0830001",
    "rep movsb": "f3a4", "cmovne": "0f45d8", "ret": "c3", "padding": "660f1f440000", "vaddps ymm from fs": "64c5f45810",
}  # fmt: skip
IN_AVX512 = {
    "vaddps zmm": "62f1744858d0", "vaddps ymm16": "62b1742858d0", "vaddps xmm17": "62b1740858d1", "kmovd": "c5fb92c8",
    "kandb": "c5ed41d9", "vpmullq zmm": "62f2f54840d0", "vpsllvw zmm": "62f2f54812d0", "vplzcntd zmm": "62f27d4844c8",
    "vpconflictd zmm": "62f27d48c4c8", "vpcmpltq": "62f3f5481fc801", "vpternlogd": "62f3754825d007",
    "vaddps zmm from fs": "6462f174485810", "vrsqrt14ps zmm": "62f27d484ec8",
}  # fmt: skip
IN_NEITHER = {
    "gf2p8affineqb": "660f3acec800", "vgf2p8affineqb ymm": "c4e3f5ced000", "vpdpbusd vex": "c4e27550d0",
    "vpdpbusd evex": "62f2754850d0", "vpermb zmm": "62f275488dd0", "vpcompressb": "62f27d4863c1",
    "vpshldvd": "62f2754871d0", "vpmadd52luq evex": "62f2f548b4d0", "vpmadd52luq vex": "c4e2f5b4d0",
    "vpopcntd": "62f27d4855c8", "vpopcntb": "62f27d4854c8", "vdpbf16ps": "62f2764852d0",
    "vcvtneps2bf16 evex": "62f27e4872c8", "vcvtneps2bf16 vex": "c4e27e72c8", "vaddph": "62f5744858d0",
    "tdpbf16ps": "c4e27a5cd1", "tilezero": "c4e27b49c0", "aesenc": "660f38dcc8", "vaesenc ymm": "c4e275dcd0",
    "vpclmulqdq ymm": "c4e37544d000", "sha256rnds2": "0f38cbc8", "vexp2ps (ER)": "62f27d48c8c8",
    "v4fmaddps": "62f27f489a08", "vp2intersectd": "62f2774868d0", "vfmaddps (FMA4)": "c4e3ed68d810",
    "bextr (TBM)": "8fea7810d803000000", "vpcmov (XOP)": "8fe868a2d900", "adcx": "660f38f6c8", "rdrand": "0fc7f0",
    "xbegin": "c7f804000000", "movdiri": "0f38f903", "prefetchw": "0f0d08", "rdfsbase": "f3480faec0",
    "insertq (SSE4a)": "f20f79c8", "pavgusb (3DNow)": "0f0fc8bf", "tpause": "660faef0",
    "add r16 (APX)": "d51001c0",
}  # fmt: skip


def outside(code: str, baseline: isa.Baseline) -> bool:
    # a harmless neighbour on each side: a verdict must not depend on what stands first
    return instructions.outside(bytes.fromhex("90" + code + "90"), baseline) is not None


@pytest.mark.parametrize("name", IN_BOTH)
def test_what_x86_64_v3_has_is_inside_both(name):
    assert not outside(IN_BOTH[name], AVX2)
    assert not outside(IN_BOTH[name], AVX512)


@pytest.mark.parametrize("name", IN_AVX512)
def test_what_only_x86_64_v4_has_is_inside_avx512_alone(name):
    assert outside(IN_AVX512[name], AVX2)
    assert not outside(IN_AVX512[name], AVX512)


@pytest.mark.parametrize("name", IN_NEITHER)
def test_what_neither_level_has_is_outside_both(name):
    assert outside(IN_NEITHER[name], AVX2)
    assert outside(IN_NEITHER[name], AVX512)


def test_a_name_accepted_in_one_encoding_is_still_refused_in_another():
    for name in ("", " from fs"):
        assert outside(IN_BOTH["vaddps ymm" + name] + IN_AVX512["vaddps zmm" + name], AVX2)


def test_the_first_instruction_outside_is_given_with_its_place():
    assert instructions.outside(bytes.fromhex("c5f458d0" + "0fc7f0"), AVX2) == (4, "'rdrand' (eax)")
    assert instructions.outside(bytes.fromhex("90c4e27b49c0"), AVX2) == (1, "the undecodable 'c4 e2 7b 49 c0'")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="XLA compiles for the machine it runs on")
def test_compiled_programs_keep_to_what_they_declare():
    instructions.check_instructions(canonical.executable(native.built("avx2")["mixed"], AVX2), AVX2)


def test_the_error_names_instruction_function_and_isa():
    if "avx512f" not in isa.this_machine().features:
        pytest.skip("this machine builds no avx512")
    wide = canonical.executable(native.built("avx512")["mixed"], AVX512)

    with pytest.raises(AotError, match=r"^executable: 'v\w+' \(.+\) in function '\w+' is outside avx2, .+; change"):
        instructions.check_instructions(wide, AVX2)
    instructions.check_instructions(wide, AVX512)


def test_an_object_that_is_no_elf_file_is_refused():
    module = wire.delimited(8, wire.delimited(1, b"MZ\x90").raw + wire.delimited(2, b"kernel").raw)
    forged = b"\x00" + wire.delimited(1, module.raw).raw

    with pytest.raises(AotError, match="object file 'kernel' is no ELF file"):
        instructions.check_instructions(forged, AVX2)
