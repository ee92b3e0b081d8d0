"""A bundle on an accelerator, built without it: the same bodies run on the CPU always, on a GPU behind `device`.

On a machine with one NVIDIA GPU that targets may name and the extra cuda13, all of it: `pytest -m device`. What a build
elsewhere gave is compared where AOT_ELSEWHERE names what `aot inspect BUNDLE --json` printed there, for the bundle of
manifests/tiny.yaml.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import device_serving
import pytest
from commands import Finished, aot
from places import ROOT, TINY

from aot import devices, extras
from aot.bundle import store
from aot.bundle.index import codec, records
from aot.bundle.index.records import ExecutableRecord, Index
from aot.bundle.writer import Writer
from aot.golden import replay as golden
from aot.runtime.fitting import machine

CPU = {"cpu": {"isa": "avx2", "threads": 32}}
HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
"""Variables under which a process has no GPU."""
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""Several processes of a test may hold the GPU at a time."""
MANIFEST = """\
name: device
model: {{checkpoint: tiny/, dtype: {dtype}}}
precompile: {{expand: product, batch_size: [1, 4], prefill_length: 16}}
generation: {{max_new_tokens: 16, streaming_chunks: 4}}
platforms: {platforms}
targets: {targets}
"""


def gpu() -> str | None:
    """The name, for targets, of the GPU that this machine has."""
    found = machine.accelerators_of("cuda").devices
    named = (
        name for name in devices.gpu_names() for kind in devices.find_gpu(name).kinds if found and kind == found[0].kind
    )
    return next(named, None)


def lacking() -> str:
    """Why nothing runs on a GPU here; empty where it does."""
    if not machine.accelerators_of("cuda").devices:
        return "this machine has no NVIDIA GPU"
    return extras.missing_extra("cuda") or (
        "" if gpu() else f"no target names {machine.accelerators_of('cuda').devices[0].kind}"
    )


CUDA = pytest.param("cuda", marks=[pytest.mark.device, pytest.mark.skipif(bool(lacking()), reason=lacking())])
PLATFORMS = pytest.mark.parametrize("platform", [pytest.param("cpu", marks=pytest.mark.thorough), CUDA])
DTYPES = pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])

Made = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Gives the bundle of a platform and a dtype, for the CPU as well, built where no accelerator is seen."""
    bundles: dict[tuple[str, str], Path] = {}

    def get(platform: str, dtype: str) -> Path:
        if (platform, dtype) not in bundles:
            home = tmp_path_factory.mktemp("device")
            shutil.copytree(TINY.parent / "tiny", home / "tiny")
            targets = [CPU] if platform == "cpu" else [CPU, {"cuda": {"device": gpu()}}]
            named = json.dumps([kind for target in targets for kind in target])
            (home / "device.yaml").write_text(
                MANIFEST.format(dtype=dtype, platforms=named, targets=json.dumps(targets))
            )
            done = aot("build", home / "device.yaml", "-o", home / "bundle", "--jobs", 2, **HIDDEN)
            assert done.code == 0, done.err
            bundles[platform, dtype] = home / "bundle"
        return bundles[platform, dtype]

    return get


def served(bundle: Path, dump: Path, **variables: str) -> Any:
    """What a process that serves the bundle tells, and how many files XLA has dumped of what it compiled."""
    dump.mkdir()
    done = subprocess.run(
        [sys.executable, device_serving.__file__, bundle],
        env={**os.environ, **SHARED, "XLA_FLAGS": f"--xla_dump_to={dump}", **variables},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "dumped": [file.name for file in dump.iterdir()]}


def agree(found: Any, wanted: Any, dtype: str) -> str:
    """What speaks against one answer being the other but for rounding; empty where nothing does.

    In float32 the tokens are the same. Logprobs are apart by at most the tolerance of golden outputs. In a narrower
    dtype two tokens may tie: where the answers part, either's choice is as good as the other's, and there they end.
    """
    tolerance = golden.TOLERANCES[dtype]
    for step, (token, other, logprob, recorded) in enumerate(
        zip(found[0], wanted[0], found[1], wanted[1], strict=True)
    ):
        room = tolerance * max(1.0, abs(recorded)) * (1 if token == other else 2)
        if abs(logprob - recorded) > room:
            return f"token {step}: {token} with {logprob}, not {other} with {recorded}"
        if token != other:
            return f"token {step}: {token}, not {other}" if dtype == "float32" else ""
    return ""


@PLATFORMS
@DTYPES
def test_a_bundle_built_without_the_device_gives_there_what_the_cpu_gives_and_compiles_nothing(
    platform: str, dtype: str, made: Made, tmp_path: Path
) -> None:
    bundle = made(platform, dtype)
    there = served(bundle, tmp_path / "there")
    cpu = served(bundle, tmp_path / "cpu", **HIDDEN)

    assert [agree(a, b, dtype) for a, b in zip(there["results"], cpu["results"], strict=True)] == [""] * 5
    assert (there["compilations"], there["dumped"]) == (0, [])
    kinds = devices.find_gpu(gpu() or "").kinds if platform == "cuda" else ("cpu",)
    assert {kind for _, kind in there["devices"]} <= set(kinds)
    assert [name for name, _ in cpu["devices"]] == ["cpu"]


@pytest.mark.parametrize(
    ("found", "dtype", "cause"),
    [
        ([[1, 2], [-0.5, -1.0]], "float32", ""),
        ([[1, 3], [-0.5, -1.0]], "float32", "token 1: 3, not 2"),
        ([[1, 3], [-0.5, -1.0]], "bfloat16", ""),
        ([[1, 3], [-0.5, -1.2]], "bfloat16", "token 1: 3 with -1.2, not 2 with -1.0"),
        ([[1, 2], [-0.5, -1.001]], "float32", "token 1: 2 with -1.001, not 2 with -1.0"),
    ],
)
def test_answers_that_differ_by_more_than_rounding_do_not_agree(found: Any, dtype: str, cause: str) -> None:
    assert agree(found, [[1, 2], [-0.5, -1.0]], dtype) == cause


@PLATFORMS
def test_golden_outputs_of_the_cpu_replay_there(platform: str, made: Made) -> None:
    bundle = made(platform, "float32")
    done = aot("verify", bundle, "--run", "--json", **SHARED)

    assert done.code == 0, done.out + done.err
    assert {entry["verdict"] for entry in done.document["golden"]["entries"]} == {"reproduced"}
    assert len(done.document["golden"]["entries"]) == len(store.open(bundle).index.entries)


@PLATFORMS
def test_check_says_ready_there(platform: str, made: Made) -> None:
    done = aot("check", made(platform, "float32"), "--json")

    assert done.code == 0, done.out + done.err
    assert {entry["verdict"] for entry in done.document["entries"]} == {"ready"}


OTHER: dict[str, Any] = {
    "cpu": ("isa", "avx2", {"machine": "x86_64", "features": ["avx9"]}, "built for cpu avx2, this cpu lacks avx9"),
    "cuda": ("device", "gtx", {"kinds": ["NVIDIA GTX"], "devices": 1}, "built for cuda gtx, this machine has NVIDIA "),
}
"""An executable that no machine runs: what its target names and requires, and the cause that is given."""


def garbled(bundle: Path, platform: str, destination: Path) -> Path:
    """A copy of a bundle for one platform alone, whose executables are for another device, and hold nothing of use."""
    option, name, requires, _ = OTHER[platform]
    opened, data = store.open(bundle), b"no executable"

    def other(executable: ExecutableRecord, digest: str) -> ExecutableRecord:
        target = {platform: {**executable.target[platform], option: name}}
        return dataclasses.replace(executable, target=target, requires=requires, digest=digest, bytes=len(data))

    with Writer.stage(destination) as writer:
        writer.adopt(opened)
        blob = writer.add(data)

        def only(index: Index) -> Index:
            programs = index.programs
            here = [place for place, program in enumerate(programs) if program.platform == platform]
            kept = tuple(
                dataclasses.replace(p, executables=tuple(other(e, blob.digest) for e in p.executables))
                for p in (programs[place] for place in here)
            )
            entries = tuple(dataclasses.replace(e, chains=chains(e, here)) for e in index.entries)
            return dataclasses.replace(index, programs=kept, entries=entries)

        def chains(entry: records.EntryRecord, here: list[int]) -> tuple[records.ChainRecord, ...]:
            return tuple(
                dataclasses.replace(chain, calls=tuple((here.index(p), b) for p, b in chain.calls))
                for chain in entry.chains
                if chain.platform == platform
            )

        writer.publish(codec.decode(codec.encode(only(opened.index)), "garbled"))
    return destination


@PLATFORMS
def test_a_bundle_for_another_device_is_refused_by_name_before_xla_sees_a_byte(
    platform: str, made: Made, tmp_path: Path
) -> None:
    bundle = garbled(made(platform, "float32"), platform, tmp_path / "garbled")
    checked = aot("check", bundle, "--json", **SHARED)
    run = aot("run", bundle, "--prompt", "def", "--json", **SHARED)

    cause = OTHER[platform][-1]
    assert checked.code == 4
    assert {entry["verdict"] for entry in checked.document["entries"]} == {"compiles"}
    assert all(cause in entry["cause"] for entry in checked.document["entries"])
    assert (run.code, run.out, run.err.count("\n")) == (4, "", 1)
    assert cause in run.err


def compiled(document: Any) -> dict[tuple[str, str], str]:
    """Digests of the CPU's executables by program and target, of what `aot inspect --json` prints."""
    rows = [row for entry in document["entries"] for row in entry["executables"] if "cpu" in row["target"]]
    return {(row["program"], json.dumps(row["target"], sort_keys=True)): row["digest"] for row in rows}


@pytest.mark.skipif("AOT_ELSEWHERE" not in os.environ, reason="AOT_ELSEWHERE names no build of another machine")
def test_executables_of_the_cpu_are_those_that_another_machine_built(tmp_path: Path) -> None:
    elsewhere = compiled(json.loads(Path(os.environ["AOT_ELSEWHERE"]).read_text()))
    built: Finished = aot("build", TINY, "-o", tmp_path / "bundle", "--no-cache", "--jobs", 2)
    here = compiled(aot("inspect", tmp_path / "bundle", "--json").document)

    assert built.code == 0, built.err
    assert here == elsewhere
    assert len(here) > 0


def measuring() -> Any:
    """tools/measure_device, as a module."""
    tools = ROOT / "tools"
    spec = spec_from_loader("measure_device", SourceFileLoader("measure_device", str(tools / "measure_device")))
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    sys.path.insert(0, str(tools))
    try:
        spec.loader.exec_module(made)
    finally:
        sys.path.remove(str(tools))
    return made


def test_a_measured_ratio_above_one_is_in_favour_of_aot(capsys: pytest.CaptureFixture[str]) -> None:
    fast = {"first_token": 1.0, "sixteen": 2.0, "prefill": [0.1], "decode": [0.01], "tokens": [1], "compilations": 0}
    slow = {"first_token": 2.0, "sixteen": 5.0, "prefill": [0.3], "decode": [0.04], "tokens": [1]}
    measuring().show({"aot": [fast], "jax.jit": [slow]})
    ours, theirs, tokens = capsys.readouterr().out.splitlines()

    assert ours.count("(1.00)") == 4
    assert [f"({ratio:.2f})" in theirs for ratio in (2, 2.5, 3, 4)] == [True] * 4
    assert tokens == "same tokens: True"
