"""Executables for accelerators that are not there: the same bytes everywhere, and none that name this machine."""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerators import compiled, lowered, needing

import aot
from aot import devices, extras, xla_flags
from aot.builder import workers
from aot.builder.compiling import canonical
from aot.bundle.writer import Writer
from aot.errors import InputError
from aot.targets import CpuTarget, CudaTarget, TpuTarget

CPU = CpuTarget("avx2", 2)
H200 = CudaTarget("h200")
V5E = TpuTarget("v5e:2x2")


CUDA = pytest.param(H200, marks=needing("cuda"), id="cuda")
TPU = pytest.param(V5E, marks=needing("tpu"), id="tpu")
TARGETS = pytest.mark.parametrize("target", [CUDA, TPU])
ON_MESH = pytest.mark.parametrize(
    "target",
    [
        pytest.param(CudaTarget("h200", devices=2, mesh={"data": 2}), marks=needing("cuda"), id="cuda"),
        pytest.param(TpuTarget("v5e:2x2", mesh={"data": 2}), marks=needing("tpu"), id="tpu"),
    ],
)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with Writer.stage(tmp_path / "bundle") as staged:
        yield staged


@TARGETS
def test_the_bytes_are_the_same_in_another_directory_and_on_another_number_of_cores(
    target: Any, tmp_path: Path, writer: Writer, monkeypatch: Any
) -> None:
    program = lowered(tmp_path / "toy", writer, target)
    one = compiled(program, target, writer)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(workers.tempfile, "tempdir", None)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        other = compiled(program, target, writer)
    finally:
        os.sched_setaffinity(0, cores)

    assert one == other
    assert canonical.paths(writer.read(one.digest), [*canonical.machine_paths(), str(tmp_path)]) is None


@ON_MESH
def test_an_executable_for_a_mesh_is_for_as_many_devices(target: Any, tmp_path: Path, writer: Writer) -> None:
    made = compiled(lowered(tmp_path / "toy", writer, target), target, writer)

    assert made.requires["devices"] == 2
    # the weight whole, of the rows a half; on a TPU no array takes less than 512 bytes
    assert made.memory["arguments"] == (1024 if target.platform == "tpu" else (16 + 4 // 2) * 4)


@TARGETS
def test_compilers_are_recorded_with_their_versions(target: Any, tmp_path: Path, writer: Writer) -> None:
    made = compiled(lowered(tmp_path / "toy", writer, target), target, writer)

    assert made.compiler.keys() == {"jaxlib", *extras.compiler_wheels(target.platform)}


@TARGETS
def test_a_flag_reaches_the_compiler(target: Any, tmp_path: Path, writer: Writer) -> None:
    program = lowered(tmp_path / "toy", writer, target)
    name = sorted(xla_flags._allowed()[target.platform])[0]
    value = {"boolean": "false", "integer": "7"}[xla_flags._allowed()[target.platform][name][0]]
    flagged = compiled(program, dataclasses.replace(target, xla_flags=(f"--{name}={value}",)), writer)

    assert flagged.flags[-1] == f"--{name}={value}"
    assert name.encode() in writer.read(flagged.digest) or flagged.digest != compiled(program, target, writer).digest


@pytest.mark.slow
@pytest.mark.parametrize("platform", [pytest.param(name, marks=needing(name)) for name in ("cuda", "tpu")] + ["cpu"])
def test_the_compiler_knows_each_allowed_flag(platform: str, tmp_path: Path, writer: Writer) -> None:
    target: Any = {"cpu": CPU, "cuda": H200, "tpu": V5E}[platform]
    program = lowered(tmp_path / "toy", writer, target)
    values = {"boolean": "true", "integer": "4096"}
    flags = tuple(f"--{name}={values[kind]}" for name, (kind, _) in xla_flags._allowed()[platform].items())

    made = compiled(program, dataclasses.replace(target, xla_flags=flags), writer)

    assert made.flags[-len(flags) :] == flags


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=needing("cuda")) for name in devices.gpu_names()])
def test_the_compiler_takes_each_description(name: str, tmp_path: Path, writer: Writer) -> None:
    target = CudaTarget(name)
    made = compiled(lowered(tmp_path / "toy", writer, target), target, writer)
    major, minor = devices.find_gpu(name).compute_capability.split(".")

    assert f"sm_{major}{minor}".encode() in writer.read(made.digest)


@pytest.mark.tpu
@pytest.mark.skipif(extras.missing_extra("tpu") is not None, reason="no libtpu")
def test_a_topology_that_there_is_not_is_named(tmp_path: Path, writer: Writer) -> None:
    program = lowered(tmp_path / "toy", writer, V5E)

    with pytest.raises(InputError, match=r"^target tpu v5e:3x3: INVALID_ARGUMENT: .*; choose a topology that there is"):
        compiled(program, TpuTarget("v5e:3x3"), writer)


def test_executables_for_the_cpu_are_the_same_with_and_without_nvidias_wheels(
    tmp_path: Path, writer: Writer, monkeypatch: Any
) -> None:
    program = lowered(tmp_path / "toy", writer, CPU)
    made = []
    for name in ("without", "with"):
        home = tmp_path / name
        shutil.copytree(Path(aot.__file__).parent, home / "aot", ignore=shutil.ignore_patterns("__pycache__"))
        if name == "with":
            (home / "nvidia" / "cu13").mkdir(parents=True)
            (home / "nvidia" / "cu13" / "__init__.py").touch()
        monkeypatch.setattr(workers, "aot", SimpleNamespace(__file__=str(home / "aot" / "__init__.py")))
        made.append(compiled(program, CPU, writer).digest)

    assert made[0] == made[1]
