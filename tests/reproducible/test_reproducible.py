"""The same inputs give the same bytes, wherever and however they are built, and no byte tells where."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

import aot as product
from aot import isa
from aot.builder.compiling import canonical, instructions
from aot.bundle import store
from aot.bundle.index import records
from aot.errors import AotError
from manifests import ISAS, RUN, small_manifest

HOSTILE = {
    "PYTHONHASHSEED": "4711",
    "LC_ALL": "C",
    "TZ": "Asia/Kathmandu",
    "NPROC": "3",
    "XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2 --xla_backend_optimization_level=0",
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "-1",
    "JAX_PLATFORMS": "nothing",
    "JAX_DEBUG_NANS": "1",
    "SOURCE_DATE_EPOCH": "1",
}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bundle once more, without the cache: other directories, environment, umask, jobs, lines of source."""
    home = tmp_path_factory.mktemp("elsewhere")
    for name in ("home", "scratch"):
        (home / name).mkdir()
    shutil.copytree(ROOT / "aot", home / "source" / "aot", ignore=shutil.ignore_patterns("__pycache__"))
    for module in (home / "source").rglob("*.py"):
        module.write_text("# one line further down\n" * 3 + module.read_text())
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "aot.cli.main",
            "build",
            small_manifest(home / "manifests"),
            "-o",
            home / "bundle",
            "--no-cache",
        ],
        cwd=home / "source",
        env={**os.environ, **HOSTILE, "HOME": str(home / "home"), "TMPDIR": str(home / "scratch")},
        umask=0o077,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert str(store.open(home / "bundle").digest) in done.stdout
    return home / "bundle"


def blobs(bundle: Path) -> list[Path]:
    return sorted((bundle / store.BLOBS).iterdir())


def executables(bundle: Path) -> list[tuple[isa.Baseline, bytes]]:
    """Each executable with the baseline that it declares."""
    opened = store.open(bundle)
    found = [record for program in opened.index.programs for record in program.executables]
    assert len(found) >= 10 * len(ISAS)
    return [(isa.find_baseline(r.target["cpu"]["isa"]), opened.read(r.digest, r.bytes)) for r in found]


def test_two_builds_of_one_manifest_give_the_same_digest_and_bytes(small_bundle: Path, elsewhere: Path) -> None:
    one, other = store.open(small_bundle), store.open(elsewhere)
    roles = {role for _, role, _, _ in records.stored_blobs(one.index)}

    assert one.digest == other.digest
    assert len(store.verify(small_bundle).blobs) == len(store.verify(elsewhere).blobs)
    assert one.attachment("golden") == other.attachment("golden")
    assert roles == {"program", "executable", "weights", "tokenizer"}


def test_no_blob_names_a_place_of_the_machine(small_bundle: Path, elsewhere: Path) -> None:
    paths = {ROOT, Path(sys.prefix), Path(sys.base_prefix), Path.home(), Path.cwd()}
    paths |= {small_bundle.parent, elsewhere.parent, elsewhere.parents[1]}
    words = {str(path) for path in paths} | {str(path.resolve()) for path in paths} | {platform.node(), "site-packages"}
    forbidden = [word.encode() for word in words if len(word) > 4]
    read = [(path.name, path.read_bytes()) for path in (*blobs(small_bundle), *blobs(elsewhere))]

    assert len(forbidden) >= 5
    assert [(name, word) for name, data in read for word in forbidden if word in data] == []


def test_every_executable_keeps_to_the_isa_that_it_declares(small_bundle: Path) -> None:
    found = executables(small_bundle)

    assert {baseline.name for baseline, _ in found} == set(ISAS)
    for baseline, data in found:
        instructions.check_instructions(data, baseline)
        target = canonical.compiled_for(data)
        assert (target.cpu, target.features) == (baseline.level, tuple(f"+{name}" for name in baseline.llvm))


def test_what_is_built_for_avx512_does_not_pass_for_avx2(small_bundle: Path) -> None:
    def passes(data: bytes) -> bool:
        try:
            instructions.check_instructions(data, isa.find_baseline("avx2"))
        except AotError:
            return False
        return True

    if "avx512" not in ISAS:
        pytest.skip("this machine builds no avx512")
    verdicts = {passes(data) for baseline, data in executables(small_bundle) if baseline.name == "avx512"}

    assert False in verdicts


def test_both_targets_generate_the_same_text(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not {"avx512"} <= {*ISAS} & {*RUN}:
        pytest.skip("this machine builds no avx512, or runs none")
    wide = product.load(small_bundle).generate("def main(")
    low = isa.Machine("x86_64", frozenset(isa.find_baseline("avx2").kernel))
    monkeypatch.setattr(isa, "this_machine", lambda: low)

    assert product.load(small_bundle).generate("def main(").token_ids == wide.token_ids
