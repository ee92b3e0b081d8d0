"""Bundles that many tests share, each built once a run through the command that a user would run."""

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import disguise
import pytest
from bundles import TODAY, tree
from commands import built, complaint
from oracles import records
from places import TINY
from sharing import Shared

from aot.builder.reuse import eviction
from aot.cli import main
from aot.runtime.fitting import expiry
from manifests import Family, family_manifest, mesh_manifest, small_manifest

CACHE = 1 << 30  # bytes; a run compiles about a third of it


@pytest.fixture(scope="session")
def filled_once(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Directories of this run, which all of its processes share."""
    own = tmp_path_factory.getbasetemp()
    return Shared(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)


@pytest.fixture(autouse=True, scope="session")
def build_cache(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Path]:
    """The build cache of all builds of the run but those that take `--no-cache`: equal programs compile once.

    It stays for the next run, in pytest's own cache; --cache-clear empties both.
    """
    root = kept_builds(pytestconfig)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AOT_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        patch.setenv("AOT_CACHE_DIR", str(root))
        yield root


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # xdist's: once, after all of them
        eviction.sweep(kept_builds(session.config), eviction.Rule(max_size=CACHE))


def kept_builds(config: pytest.Config) -> Path:
    root = config.cache.mkdir("builds")
    root.chmod(0o700)  # one that others can write is refused
    return root


@pytest.fixture(autouse=True, scope="session")
def in_time() -> Iterator[None]:
    """A day on which what the installed jax exports is readable, in every process: tests are to pass on later ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(expiry.TODAY_VARIABLE, TODAY)
        yield


@pytest.fixture(scope="session")
def tiny_bundle(filled_once: Shared) -> Path:
    """The bundle of manifests/tiny.yaml."""
    return filled_once("tiny", lambda home: built(TINY, home / "bundle")) / "bundle"


@pytest.fixture(scope="session")
def small_bundle(filled_once: Shared) -> Path:
    """The bundle of a small manifest, with executables for each isa that this machine can build for."""
    return filled_once("small", lambda home: built(small_manifest(home), home / "bundle")) / "bundle"


@pytest.fixture(scope="session")
def mesh_bundle(filled_once: Shared) -> Path:
    """The small bundle's model and shape, for a mesh of 2 × 2 alone."""
    return filled_once("mesh", lambda home: built(mesh_manifest(home), home / "bundle")) / "bundle"


@pytest.fixture(scope="session")
def family(filled_once: Shared) -> Callable[[str], Family]:
    """Gives the Family of a name, made when it is first asked for."""

    def get(name: str) -> Family:
        oracle = records.read(f"text/{name}")
        home = filled_once(name, lambda home: built(family_manifest(oracle, home), home / "bundle"))
        return Family(name, home / "checkpoint", oracle, home / "bundle")

    return functools.cache(get)


@pytest.fixture(scope="session")
def wardrobe(filled_once: Shared) -> dict[str, str]:
    """Variables that let a script of `other_cpus` put on a disguise."""
    directory = filled_once("wardrobe", lambda home: (home / "cause").write_text(disguise.made(home) or ""))
    if cause := (directory / "cause").read_text():
        pytest.skip(f"this CPU cannot be disguised: {cause}")
    return {disguise.VARIABLE: str(directory)}


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command with and without --json, holds it to the rules, and gives its line."""

    def check(code: int, *arguments: object) -> str:
        said = []
        before = tree(tmp_path)
        for more in ([], ["--json"]):
            found = main.run([*map(str, arguments), *more])
            out, err = capfd.readouterr()
            lines = [line for line in err.splitlines() if line not in ("weights", "lower")]  # which begin together
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
