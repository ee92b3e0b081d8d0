"""Targets for accelerators, where there is neither accelerator nor compiler: plans, refusals, verdicts."""

import dataclasses
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import synthetic
import toy
from accelerators import GPU, WHEELS
from commands import complaint

from aot import devices, extras, xla_flags
from aot import plan as plans
from aot.builder.compiling import compile, cuda
from aot.builder.reuse import identity
from aot.builder.stages import build, golden, provenance
from aot.bundle.index.records import ChainRecord, ExecutableRecord, Index
from aot.cli import main
from aot.errors import InputError, ManifestError
from aot.runtime.fitting import entries, fit, machine
from aot.runtime.fitting.machine import Accelerator, Accelerators
from aot.targets import CpuTarget, CudaTarget, Target, TpuTarget

H200 = CudaTarget("h200")
V5E = TpuTarget("v5e:2x2")
CHIP = Accelerator("TPU v5 lite")


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without the extras."""
    monkeypatch.setattr(extras, "wheel_version", lambda name: None)


def manifest(home: Path, *targets: str, mesh: str = "{data: 1, model: 1}") -> Path:
    """One of the toy model for some targets."""
    path = toy.manifest(home)
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("platforms", "targets"))]
    rest = ["platforms: [cpu, cuda, tpu]", f"targets: [{', '.join(targets)}]"]
    rest.append(f"partition: {{mesh: {mesh}, axes: {{batch: data}}, rules: [['.*', []]]}}")
    path.write_text("\n".join([*lines, *rest]) + "\n")
    return path


def planned(home: Path, *targets: str) -> plans.Plan:
    return plans.resolve(plans.read_manifest(manifest(home, *targets)))


def test_each_program_is_compiled_once_for_each_target_of_its_platform_and_mesh(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        "{cpu: {isa: avx2}}",
        "{cuda: {device: h200}}",
        "{cuda: {device: l4}}",
        "{tpu: {topology: 'v5e:2x2', mesh: {data: 2, model: 2}}}",
    )

    counted = build.count_plan(plan)

    assert (counted.programs, counted.compiles) == (3, 4)


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("{cuda: {device: h20}}", r"unknown device 'h20'; did you mean 'h200'\?"),
        ("{cuda: {device: gtx}}", r"unknown device 'gtx'; allowed are a100-40gb, .*, l40s$"),
        ("{tpu: {topology: v5e}}", r"must be a version and a shape as 'v5e:2x2', got 'v5e'"),
        ("{tpu: {topology: 'v5e:0x2'}}", r"must be a version and a shape as 'v5e:2x2', got 'v5e:0x2'"),
        ("{tpu: {topology: 'v5x:2x2'}}", r"unknown version 'v5x'; did you mean 'v5p'\?|did you mean 'v5e'\?"),
        ("{tpu: {topology: 'v5p:2x2'}}", r"a topology of v5p has 3 dimensions, got 'v5p:2x2'"),
        ("{tpu: {topology: 'v5e:2x2', mesh: {data: 8}}}", r"has 4 devices, the mesh data 8 needs 8"),
        ("{cuda: {device: h200, mesh: {data: 2}, devices: 1}}", r"has 1 devices, the mesh data 2 needs 2"),
        ("{cuda: {device: l4, xla_flags: [xla_gpu_x]}}", r"must be flags like --name=value, got 'xla_gpu_x'"),
        ("{cuda: {device: l4, xla_flags: ['--xla_gpu_dump=1']}}", r"unknown flag 'xla_gpu_dump' for cuda; allowed are"),
        (
            "{cuda: {device: l4, xla_flags: ['--xla_gpu_enable_triton_gem=true']}}",
            r"unknown flag 'xla_gpu_enable_triton_gem' for cuda; did you mean 'xla_gpu_enable_triton_gemm'\?",
        ),
        (
            "{cpu: {xla_flags: ['--xla_backend_optimization_level=high']}}",
            r"'xla_backend_optimization_level' takes a number, got 'high'",
        ),
        (
            "{cpu: {xla_flags: ['--xla_cpu_enable_fast_min_max=1']}}",
            r"'xla_cpu_enable_fast_min_max' takes true or false, got '1'",
        ),
        (
            "{cpu: {xla_flags: ['--xla_backend_optimization_level=1', '--xla_backend_optimization_level=2']}}",
            r"'xla_backend_optimization_level' is given twice",
        ),
    ],
)
def test_a_target_that_there_is_not_is_refused_by_the_plan(tmp_path: Path, target: str, cause: str) -> None:
    with pytest.raises(ManifestError, match=cause) as raised:
        planned(tmp_path, target)

    assert str(raised.value).count("\n") == 0


def test_the_order_of_flags_makes_no_other_target(tmp_path: Path) -> None:
    flags = ["--xla_cpu_enable_fast_min_max=true", "--xla_backend_optimization_level=1"]
    one, other = (planned(tmp_path, f"{{cpu: {{xla_flags: {order}}}}}").targets for order in (flags, flags[::-1]))

    assert one == other
    assert planned(tmp_path, "{cpu: {xla_flags: []}}").targets == planned(tmp_path, "{cpu: {}}").targets


def test_a_flag_is_recorded_and_a_factor_of_the_executable() -> None:
    plain = CpuTarget("avx2", 32)
    flagged = dataclasses.replace(plain, xla_flags=("--xla_backend_optimization_level=1",))
    factors = [identity.executable("sha256:0", target) for target in (plain, flagged)]

    assert compile.flags(flagged) == (*compile.flags(plain), "--xla_backend_optimization_level=1")
    assert factors[0]["flags"] != factors[1]["flags"]


def test_the_wheels_that_compile_are_factors_of_the_executable_and_of_no_other(monkeypatch: Any) -> None:
    cpu = CpuTarget("avx2", 32)
    before = [identity.executable("sha256:0", target) for target in (cpu, H200, V5E)]
    monkeypatch.setattr(identity.installed, "wheel", lambda name: {"name": name, "version": "another"})
    after = [identity.executable("sha256:0", target) for target in (cpu, H200, V5E)]

    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False]


def test_a_flag_has_a_kind_and_a_reason() -> None:
    for platform, table in xla_flags._allowed().items():
        for name, (kind, reason) in table.items():
            value = {"boolean": "true", "integer": "1"}[kind]

            assert xla_flags.parse_flags(platform, [f"--{name}={value}"]) == {name: {"true": True, "1": 1}[value]}
            assert reason


@pytest.mark.usefixtures("uninstalled")
def test_a_missing_compiler_is_a_remark_of_the_plan_that_names_the_extra(tmp_path: Path) -> None:
    plan = planned(tmp_path, "{cpu: {}}", "{cuda: {device: h200}}", "{tpu: {topology: 'v5e:2x2'}}")

    assert plans.uninstalled(plan) == (
        "targets[1]: cuda: jax-cuda13-plugin, jax-cuda13-pjrt, nvidia-cuda-nvcc, nvidia-nvvm not installed; "
        "pip install 'jax-aot[cuda13]'",
        "targets[2]: tpu: libtpu not installed; pip install 'jax-aot[tpu]'",
    )


@pytest.mark.usefixtures("uninstalled")
@pytest.mark.parametrize(
    ("target", "named"),
    [("{cuda: {device: h200}}", "target cuda h200: "), ("{tpu: {topology: 'v5e:2x2'}}", "target tpu v5e:2x2: libtpu ")],
)
def test_a_missing_compiler_ends_a_build_before_anything_is_made(
    tmp_path: Path, capfd: Any, monkeypatch: Any, target: str, named: str
) -> None:
    monkeypatch.setattr(build, "laid_out", lambda *rest: pytest.fail("work was begun"))
    path = manifest(tmp_path, target)
    code = main.run(["build", str(path), "-o", str(tmp_path / "bundle"), "--json"])
    said = capfd.readouterr()

    assert (code, said.out, said.err.count("\n")) == (2, "", 1)
    line = complaint(said.err, 2)
    assert line.startswith(named)
    assert "not installed; pip install 'jax-aot[" in line


def test_extras_are_those_of_the_distribution() -> None:
    root = Path(extras.__file__).parents[1]
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = {line.split("==")[0] for line in (root / "constraints.txt").read_text().splitlines()}

    for platform in ("cuda", "tpu"):
        assert extras.pip_requirement(platform) in {f"'jax-aot[{name}]'" for name in declared}
        assert set(extras.compiler_wheels(platform)) <= pinned


@pytest.mark.parametrize("name", devices.gpu_names())
def test_a_description_has_what_xla_asks_of_a_device(name: str) -> None:
    gpu = devices.find_gpu(name)
    text = cuda.target_config(gpu)

    assert {"core_count", "memory_bandwidth", "shared_memory_per_block_optin", "l2_cache_size"} <= gpu.figures.keys()
    assert f'device_description_str: "{gpu.kinds[0]}"' in text
    assert ("ACCELERATED_FEATURES" in text) == (gpu.compute_capability in ("9.0", "10.0"))
    assert text.count("{") == text.count("}")


def test_an_unknown_device_is_no_device() -> None:
    with pytest.raises(InputError, match="unknown device 'h20'"):
        devices.find_gpu("h20")


def executable(target: Target, **changes: Any) -> ExecutableRecord:
    """One as it would be recorded where the compilers are installed."""
    compiler = {name: version for name, version in WHEELS.items() if name in extras.compiler_wheels(target.platform)}
    record = ExecutableRecord(
        target.plain(),
        "sha256:0",
        1,
        (),
        {"jaxlib": fit.jaxlib_version(), **compiler},
        compile.requires(target),
        {},
        {},
    )
    return dataclasses.replace(record, **changes)


@pytest.fixture
def having(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this a machine with accelerators and what drives them."""

    def have(**found: Accelerators) -> None:
        monkeypatch.setattr(machine, "accelerators_of", lambda platform: found.get(platform, Accelerators(())))
        monkeypatch.setattr(extras, "wheel_version", WHEELS.get)

    return have


TWO = CudaTarget("h200", devices=2, mesh={"data": 2})
MISFITS: dict[str, tuple[Target, dict[str, Accelerators], str]] = {
    "no GPU": (H200, {}, "built for cuda h200, this machine has no NVIDIA GPU"),
    "no TPU": (V5E, {"cuda": Accelerators((GPU,))}, "built for tpu v5e:2x2, this machine has no TPU"),
    "another GPU": (
        H200,
        {"cuda": Accelerators((Accelerator("NVIDIA L4", "8.9"),))},
        "built for cuda h200, this machine has NVIDIA L4",
    ),
    "another TPU": (
        V5E,
        {"tpu": Accelerators((Accelerator("TPU v6 lite"),))},
        "built for tpu v5e:2x2, this machine has TPU v6 lite",
    ),
    "too few": (TWO, {"cuda": Accelerators((GPU,))}, "built for cuda h200 on 2 devices, this machine has 1"),
    "another compute capability": (
        H200,
        {"cuda": Accelerators((Accelerator("NVIDIA H200", "9.9"),))},
        "built for compute capability 9.0, this machine has 9.9",
    ),
    "an old driver": (
        H200,
        {"cuda": Accelerators((GPU,), "570.86.10")},
        "built for driver 580 or newer, this machine has 570.86.10",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_machine_that_does_not_run_it_is_told_why(having: Any, name: str) -> None:
    target, found, cause = MISFITS[name]
    having(**found)

    assert fit.misfit_cause(executable(target)) == cause


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (H200, {"cuda": Accelerators((GPU,), "580.95.05")}),
        (H200, {"cuda": Accelerators((Accelerator("NVIDIA H200"),))}),
        (TWO, {"cuda": Accelerators((Accelerator("NVIDIA L4", "8.9"), GPU, GPU), "590.10")}),
        (V5E, {"tpu": Accelerators((CHIP,))}),
    ],
)
def test_a_machine_that_has_what_it_needs_runs_it(having: Any, target: Any, found: dict[str, Accelerators]) -> None:
    having(**found)

    assert fit.misfit_cause(executable(target)) is None


def test_what_loads_an_executable_must_be_of_its_compilers_version(having: Any) -> None:
    having(tpu=Accelerators((CHIP,)), cuda=Accelerators((GPU,)))
    old = executable(V5E, compiler={"jaxlib": fit.jaxlib_version(), "libtpu": "0.0.41"})
    assembled = executable(H200, compiler={"jaxlib": fit.jaxlib_version(), "nvidia-cuda-nvcc": "13.0.48"})

    assert fit.misfit_cause(old) == "built by libtpu 0.0.41, this is 0.0.42.1"
    assert fit.misfit_cause(assembled) is None


def test_a_loader_that_is_not_installed_is_named_with_its_extra(having: Any, monkeypatch: Any) -> None:
    having(cuda=Accelerators((GPU,)))
    monkeypatch.setattr(extras, "wheel_version", lambda name: None)

    assert fit.misfit_cause(executable(H200)) == (
        "built by jax-cuda13-plugin 0.10.2, which is not installed; pip install 'jax-aot[cuda13]'"
    )


def test_more_cores_than_threads_are_a_remark_and_fewer_nothing(monkeypatch: Any) -> None:
    built = executable(CpuTarget("avx2", 4))
    said = []
    for cores in (2, 4, 8):
        monkeypatch.setattr(fit.os, "cpu_count", lambda cores=cores: cores)
        said.append(fit.remark_on(built))

    assert said == ["", "", "built for 4 threads, this machine has 8 cores"]


def index(*platforms: str, executables: bool = True) -> Index:
    """The synthetic one with a program for each platform, and an executable of it."""
    plain = synthetic.index()
    targets = {"cpu": CpuTarget("avx2", 32), "cuda": H200, "tpu": V5E}
    programs = tuple(
        dataclasses.replace(
            plain.programs[0], platform=name, executables=(executable(targets[name]),) if executables else ()
        )
        for name in platforms
    )
    chains = tuple(ChainRecord(name, (), ((place, 0), (place, 1))) for place, name in enumerate(platforms))
    return dataclasses.replace(
        plain, programs=programs, entries=tuple(dataclasses.replace(e, chains=chains) for e in plain.entries)
    )


def verdicts(made: Index) -> Iterator[tuple[str, str]]:
    for entry in entries.entries_of(made, entries.find_place(made)):
        verdict = entries.judge_entry(entry)
        yield verdict.verdict, verdict.cause


def test_without_the_device_the_cause_is_that_it_is_not_there(having: Any) -> None:
    having()

    assert set(verdicts(index("cuda"))) == {
        (
            "unusable",
            "built for cuda h200, this machine has no NVIDIA GPU; "
            "no program for cpu, only for cuda; rebuild with platforms: [cpu]",
        )
    }


def test_a_machine_with_the_device_runs_there_and_one_without_on_the_cpu(having: Any) -> None:
    found = []
    for have in ({}, {"cuda": Accelerators((GPU,))}, {"tpu": Accelerators((CHIP,))}):
        having(**have)
        made = index("cpu", "cuda", "tpu")
        found.append((entries.find_place(made).platform, set(verdicts(made))))

    assert found == [(name, {("ready", "")}) for name in ("cpu", "cuda", "tpu")]


def test_an_accelerator_for_which_nothing_fits_leaves_the_bundle_to_the_cpu(having: Any) -> None:
    having(cuda=Accelerators((Accelerator("NVIDIA L4", "8.9"),)))

    assert entries.find_place(index("cpu", "cuda")).platform == "cpu"
    assert {verdict for verdict, _ in verdicts(index("cuda"))} == {"compiles"}


def test_golden_outputs_are_those_of_the_cpu_on_a_machine_with_the_device_too(having: Any) -> None:
    having(cuda=Accelerators((GPU,)))
    bundle: Any = SimpleNamespace(index=index("cpu", "cuda"))

    assert (entries.find_place(bundle.index).platform, golden.place(bundle).platform) == ("cuda", "cpu")


def test_provenance_names_the_compilers_of_the_targets(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(provenance.installed, "wheel", lambda name: {"name": name})
    named = []
    for home, target in (("cpu", "{cpu: {}}"), ("tpu", "{tpu: {topology: 'v5e:2x2'}}")):
        plan = planned(tmp_path / home, target)
        named.append({found.get("name") for found in provenance._dependencies(plan, provenance.Evidence(plan), {})})

    assert named[1] - named[0] == {"libtpu"}


def test_each_description_names_its_source() -> None:
    table = devices._table()

    assert {gpu["source"] for gpu in table["gpus"].values()} <= table["sources"].keys()
