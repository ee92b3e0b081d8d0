"""Bundles that many tests share, each built once a session through the command that a user would run."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import disguise
import pytest
from oracles import records
from oracles.records import Case

from aot import isa
from aot.builder import cpu
from aot.bundle import store
from aot.bundle.writer import Writer
from aot.cli import main
from aot.errors import MachineError
from aot.runtime import expiry

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "manifests" / "tiny.yaml"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


DISTURBED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heedful() -> None:
    """For a process to be disturbed: a test run in the background would hand on that it ignores these signals."""
    for number in DISTURBED:
        signal.signal(number, signal.SIG_DFL)


@dataclass(frozen=True)
class Finished:
    """A command that has run."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


def aot(*arguments: object, cwd: Path | None = None, **variables: str) -> Finished:
    """Runs the command line in a process of its own, with some environment variables changed."""
    done = subprocess.run(
        [sys.executable, "-m", "aot.cli.main", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def built(manifest: Path, destination: Path) -> Path:
    """A bundle of a manifest; fails the test with what the build printed."""
    done = aot("build", manifest, "-o", destination, "--jobs", 2)
    assert done.code == 0, done.err
    return destination


@pytest.fixture(autouse=True, scope="session")
def build_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The build cache of all builds of the session but those that take `--no-cache`: equal programs compile once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AOT_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        patch.setenv("AOT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield Path(os.environ["AOT_CACHE_DIR"])


TODAY = "2026-07-01"


@pytest.fixture(autouse=True, scope="session")
def in_time() -> Iterator[None]:
    """A day on which what the installed jax exports is readable, in every process: tests are to pass on later ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(expiry.VARIABLE, TODAY)
        yield


def dated(bundle: Path, day: str, destination: Path) -> Path:
    """A copy of a bundle, with its golden outputs, that was valid until another day."""
    opened = store.open(bundle)
    golden = opened.attachment("golden")
    with Writer.stage(destination) as writer:
        writer.adopt(opened)
        kept = {} if golden is None else {"golden": golden}
        writer.publish(replace(opened.index, valid_until=day), attachments=kept)
    return destination


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of manifests/tiny.yaml."""
    return built(TINY, tmp_path_factory.mktemp("tiny") / "bundle")


def _builds(name: str) -> bool:
    try:
        cpu.check({"isa": name})
    except MachineError:
        return False
    return True


ISAS = tuple(filter(_builds, isa.names()))
"""Those that this machine can build for."""

RUN = tuple(
    name
    for name in isa.names()
    if not isa.missing({"machine": "x86_64", "features": isa.baseline(name).kernel}, isa.machine())
)
"""Those whose code it runs."""

SMALL_MANIFEST = f"""\
name: small
model: {{checkpoint: tiny/, dtype: float32}}
precompile: {{batch_size: 2, prefill_length: 16}}
generation: {{max_new_tokens: 16, streaming_chunks: 4}}
platforms: [cpu]
targets: {json.dumps([{"cpu": {"isa": name, "threads": 32}} for name in ISAS])}
"""


def small_manifest(home: Path) -> Path:
    """A copy of the tiny checkpoint with a manifest of one shape and two targets."""
    shutil.copytree(TINY.parent / "tiny", home / "tiny")
    (home / "small.yaml").write_text(SMALL_MANIFEST)
    return home / "small.yaml"


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a small manifest, with executables for each isa that this machine can build for."""
    home = tmp_path_factory.mktemp("small")
    return built(small_manifest(home), home / "bundle")


MESH = {"data": 2, "model": 2}
MESH_MANIFEST = f"""\
name: mesh
model: {{checkpoint: tiny/, dtype: float32}}
precompile: {{batch_size: 2, prefill_length: 16}}
generation: {{max_new_tokens: 16, streaming_chunks: 4}}
platforms: [cpu]
targets: [{{cpu: {{isa: avx2, threads: 32}}}}]
partition:
  mesh: {json.dumps(MESH)}
  axes: {{batch: data, head: model, kv_head: model, mlp: model, vocab: model}}
"""


@pytest.fixture(scope="session")
def mesh_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bundle's model and shape, for a mesh of 2 × 2 alone."""
    home = tmp_path_factory.mktemp("mesh")
    shutil.copytree(TINY.parent / "tiny", home / "tiny")
    (home / "mesh.yaml").write_text(MESH_MANIFEST)
    return built(home / "mesh.yaml", home / "bundle")


@dataclass(frozen=True)
class Family:
    """A random checkpoint of one architecture, what torch makes of it and our bundle."""

    name: str
    checkpoint: Path
    oracle: Case
    bundle: Path


FAMILY_MANIFEST = """\
name: family
model: {checkpoint: checkpoint/, dtype: float32}
precompile: {expand: product, batch_size: [1, 3], prefill_length: [8, 16], max_length: 48}
generation: {max_new_tokens: 20, streaming_chunks: 4, logits: all}
platforms: [cpu]
"""


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """Gives the Family of a name, made when it is first asked for."""
    made: dict[str, Family] = {}

    def get(name: str) -> Family:
        if name not in made:
            home = tmp_path_factory.mktemp(name)
            oracle = records.read(f"text/{name}")
            oracle.write(home / "checkpoint", sharded="shard" in oracle.given)
            (home / "manifest.yaml").write_text(FAMILY_MANIFEST)
            made[name] = Family(name, home / "checkpoint", oracle, built(home / "manifest.yaml", home / "bundle"))
        return made[name]

    return get


@pytest.fixture(scope="session")
def wardrobe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables that let a script of `other_cpus` put on a disguise."""
    directory = tmp_path_factory.mktemp("wardrobe")
    if cause := disguise.made(directory):
        pytest.skip(f"this CPU cannot be disguised: {cause}")
    return {disguise.VARIABLE: str(directory)}


def tree(directory: Path) -> dict[str, object]:
    """Everything below a directory: links, modes, times of last change, bytes."""
    found: dict[str, object] = {}
    for path in sorted(directory.rglob("*")):
        if "__pycache__" in path.parts:  # where a model of one's own was imported
            continue
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(directory))] = (status.st_mode, status.st_ino, status.st_mtime_ns, content)
    return found


def complaint(line: str, code: int) -> str:
    """The line for people of an error that was told as JSON."""
    error = json.loads(line)["error"]
    assert (list(error)[:3], error["exit_code"]) == (["place", "message", "exit_code"], code)
    return f"{error['place']}: {error['message']}"


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command with and without --json, holds it to the rules, and gives its line."""

    def check(code: int, *arguments: object) -> str:
        said = []
        before = tree(tmp_path)
        for more in ([], ["--json"]):
            found = main.run([*map(str, arguments), *more])
            out, err = capfd.readouterr()
            lines = [line for line in err.splitlines() if line != "weights"]  # the step at which weights are read
            assert (found, out, len(lines)) == (code, "", 1), err
            said.append(complaint(lines[0], code) if more else lines[0])
        assert tree(tmp_path) == before
        assert said[0].removeprefix("aot: ") == said[1].removeprefix("aot: ")  # the place of what has none
        return said[0]

    return check


@pytest.fixture
def document(capfd: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """Runs a command with --json and gives its document, which is all of stdout."""

    def get(*arguments: object, code: int = 0) -> dict:
        found = main.run([*map(str, arguments), "--json"])
        out, err = capfd.readouterr()
        assert (found, out.count("\n")) == (code, 1), err
        return json.loads(out)

    return get
