import platform
import sys
from pathlib import Path

import native
import pytest
from places import ROOT

from aot import isa, wire
from aot.builder.compiling import canonical, cpu, pin
from aot.errors import AotError

AVX2 = isa.find_baseline("avx2")
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="XLA compiles for the machine it runs on")

_RUN = """
import sys
from pathlib import Path
import jax, numpy as np, ml_dtypes
from jaxlib import xla_client

rng = np.random.default_rng(0)
x, w = (rng.standard_normal(shape, dtype=np.float32) for shape in ((16, 64), (64, 64)))
b = rng.standard_normal((64, 64)).astype(ml_dtypes.bfloat16)
device, = jax.devices()
loaded = device.client.deserialize_executable(Path(sys.argv[1]).read_bytes(), xla_client.DeviceList((device,)))
result, = loaded.execute([jax.device_put(array) for array in (x, w, b)])

wide = lambda array: array.astype(np.float64)
scores = np.exp(wide(x) @ wide(w))
z = scores / scores.sum(-1, keepdims=True) + wide(x.astype(ml_dtypes.bfloat16)) @ wide(b).T + wide(x[:1]) @ wide(w).T
for i in range(5):
    z = np.tanh(z @ wide(w)) + i
print(float(np.abs(np.asarray(result) - z).max()))
"""


def raw(program: str = "mixed") -> bytes:
    return native.built("avx2")[program]


def executable(data: bytes) -> bytes:
    return canonical.executable(data, AVX2)


def rearranged(change) -> bytes:
    """An executable whose module has other fields: what `change` makes of the list of them."""
    header, message = wire.framed(raw())
    return header + wire.changed_within(message, (1,), lambda module: wire.join_fields(change(wire.fields(module))))


@pytest.mark.parametrize("program", ["mixed", "shift"])
def test_builds_with_other_hash_seed_home_directory_and_cores_give_the_same_bytes(program):
    one, other = native.built("avx2")[program], native.built("avx2", seed="7", cores=1)[program]

    assert executable(one) == executable(other)


def test_the_order_of_object_files_does_not_show():
    turned = rearranged(lambda parts: [p for p in parts if p.number < 8] + [p for p in parts if p.number == 8][::-1]
                        + [p for p in parts if p.number > 8])  # fmt: skip

    assert turned != raw()
    assert executable(turned) == executable(raw())


def test_the_target_is_the_declared_one_whatever_machine_built_it():
    target = canonical.compiled_for(executable(raw()))

    assert target.cpu == "x86-64-v3"
    assert target.features == tuple("+" + name for name in AVX2.llvm)


def test_the_canonical_form_is_its_own_canonical_form():
    assert executable(executable(raw())) == executable(raw())


@pytest.mark.skipif(cpu.way() is not pin, reason="this jaxlib needs no file to hold the compiler")
def test_nothing_of_the_compiler_s_file_is_left():
    assert pin.FILE.encode() in raw()
    assert pin.FILE.encode() not in executable(raw())


@pytest.mark.parametrize("name", isa.isa_names())
def test_an_executable_loads_in_silence_and_computes_what_numpy_does(name, tmp_path):
    baseline = isa.find_baseline(name)
    if isa.missing_features({"machine": baseline.machine, "features": baseline.kernel}, isa.this_machine()):
        pytest.skip(f"this machine has no {name}")
    tmp_path.joinpath("mixed").write_bytes(canonical.executable(native.built(name)["mixed"], baseline))

    done = native.run(_RUN, "mixed", directory=str(tmp_path))

    assert float(done.stdout) < 1e-4
    assert done.stderr == ""


def test_an_executable_names_no_directory_of_this_machine():
    canonical.check_paths(executable(raw()), "executable")

    assert canonical.paths(raw(), canonical.machine_paths()) is None


def test_a_directory_in_some_bytes_is_found_and_named():
    data = b"\x0a" + str(Path.cwd()).encode() + b"/program.py"

    with pytest.raises(AotError, match=rf"^program decode: its bytes name '{Path.cwd()}"):
        canonical.check_paths(data, "program decode")


def test_a_directory_too_short_to_tell_is_not_looked_for():
    assert canonical.paths(b"a / b", ["/"]) is None


def test_objects_are_elf_files_and_kernels_are_their_functions():
    objects = [image for _, image in canonical.objects(raw())]

    assert {image[:4] for image in objects} == {b"\x7fELF"}
    assert all(any(name.encode() in image for image in objects) for name in canonical.kernels(raw()))


HOSTILE = {
    "nothing": lambda: b"",
    "noise": lambda: b"\x05abcde" + b"\xff" * 100,
    "cut short": lambda: raw()[:-100],
    "header beyond the end": lambda: b"\xff\xff\x7f" + raw(),
    "no module": lambda: b"\x00" + wire.delimited(2, b"").raw,
    "object files apart": lambda: rearranged(lambda parts: [parts[-3], *parts]),
    "two targets": lambda: rearranged(lambda parts: [*parts, *[p for p in parts if p.number == 9]]),
    "no target": lambda: rearranged(lambda parts: [p for p in parts if p.number != 9]),
    "a target of other fields": lambda: rearranged(
        lambda parts: [*parts[:-2], wire.delimited(9, b"\x0a\x01x"), parts[-1]]
    ),
    "another architecture": lambda: raw().replace(b"x86_64-unknown-linux-gnu", b"aarch64-unknown-linux-gn"),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_an_unexpected_structure_is_refused_in_one_line(hostile):
    with pytest.raises(
        AotError, match=r"^executable: unexpected structure \(.+\), against .+; build with .+$"
    ) as error:
        executable(HOSTILE[hostile]())

    assert "\n" not in str(error.value)


def test_the_directories_that_no_byte_may_name_are_those_of_this_machine_and_of_our_own_sources() -> None:
    assert {str(ROOT), sys.prefix, sys.base_prefix, str(Path.cwd())} <= set(canonical.machine_paths())
