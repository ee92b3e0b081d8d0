"""What the README shows is what happens. Run as a script, it writes today's outputs into the README:

PYTHONPATH=.:tests:tests/support python tests/project/test_readme.py
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest
from bundles import TODAY
from commands import built
from places import ROOT, TINY
from pydantic import BaseModel

from aot import errors
from aot.bundle import store
from aot.cli import main
from aot.plan.manifests.manifest import Content
from aot.plan.manifests.sections import Generation, Model, Precompile
from aot.runtime.fitting import expiry

README = ROOT / "README.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_VARIES = re.compile(r"\b[0-9a-f]{12,64}\b|\b[0-9.]+ [KMG]iB\b|\d{4}-\d\d-\d\d")  # from one set of packages to another
_SESSION = "console", "pycon"


@pytest.fixture
def directory(tmp_path: Path, tiny_bundle: Path) -> Path:
    return arranged(tmp_path / "readme", tiny_bundle, README.read_text())


def arranged(directory: Path, tiny: Path, text: str) -> Path:
    """A directory as the README supposes it: the manifests, the demo's bundle, and the files that it shows."""
    (directory / "dist").mkdir(parents=True)
    (directory / "manifests").symlink_to(ROOT / "manifests")
    (directory / "dist" / "tiny").symlink_to(tiny)
    for language, ending in (("python", "py"), ("yaml", "yaml")):
        shown = (block for name, block in blocks(text) if name == language and "scale" in block.lower())
        (directory / f"scale.{ending}").write_text(next(shown))
    return directory


def blocks(text: str) -> list[tuple[str, str]]:
    return [(block[1], block[2]) for block in _BLOCK.finditer(text)]


def played(text: str, directory: Path) -> str:
    """The README with the outputs that its sessions give in a directory."""
    names: dict[str, Any] = {}

    def play(block: re.Match[str]) -> str:
        if block[1] not in _SESSION:
            return block[0]
        lines = _shell(block[2], directory) if block[1] == "console" else _python(block[2], names)
        return "\n".join([f"```{block[1]}", *lines, "```"])

    with contextlib.chdir(directory):
        made = _BLOCK.sub(play, text)
        for value in names.values():
            if hasattr(value, "close"):
                value.close()
    return made


def _shell(block: str, directory: Path) -> Iterator[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
        yield f"$ {command}"
        done = subprocess.run(
            command,
            shell=True,
            cwd=directory,
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # a slow machine says that it still goes on
        yield from (line.rstrip() for line in done.stdout.splitlines() if not line.startswith("still: "))


def _python(block: str, names: dict[str, Any]) -> Iterator[str]:
    for source in re.findall(r"^>>> (.*)$", block, re.MULTILINE):
        yield f">>> {source}"
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            exec(compile(source, "README.md", "single"), names)
        yield from shown.getvalue().splitlines()


def test_what_the_sessions_show_is_what_they_give(directory: Path):
    """To the last digit of every digest where the packages are those that the README was written with."""
    text = README.read_text()
    made = played(text, directory)
    if installed() != pinned():
        made, text = _VARIES.sub("…", made), _VARIES.sub("…", text)

    assert {name for name, _ in blocks(text)} >= set(_SESSION)
    assert made.splitlines() == text.splitlines()


def test_every_digest_of_a_bundle_is_of_one_that_is_built_here(tiny_bundle: Path, directory: Path):
    """A digest that changes is a promise broken, or a change to programs that a commit explains."""
    if installed() != pinned():
        pytest.skip(f"the README's digests are of {pinned()}, installed is {installed()}")
    scale = built(directory / "scale.yaml", directory / "built")
    known = {str(store.open(bundle).digest) for bundle in (tiny_bundle, scale)}

    assert set(re.findall(r"^(sha256:[0-9a-f]{64})$", README.read_text(), re.MULTILINE)) == known


def installed() -> dict[str, str]:
    """The versions that decide programs and executables."""
    return {name: metadata.version(name) for name in ("jax", "jaxlib")}


def pinned() -> dict[str, str]:
    """The same of the newest set, by which the README is written."""
    rows = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    return {name: version for name, version in rows if name in ("jax", "jaxlib")}


def test_the_manifest_that_is_explained_is_the_one_that_the_demo_builds():
    shown = [block for language, block in blocks(README.read_text()) if language == "yaml"]

    assert TINY.read_text() in shown


@pytest.mark.parametrize(
    ("prefix", "section"), [("", Content), ("model.", Model), ("precompile.", Precompile), ("generation.", Generation)]
)
def test_every_key_of_a_manifest_is_explained(prefix: str, section: type[BaseModel]):
    rows = "\n".join(re.findall(r"^\| (`.*?) \|", README.read_text(), re.MULTILINE))
    keys = {f"{prefix}{name}" for name in section.model_fields}

    assert {key for key in keys - {"model", "generation"} if f"`{key}`" not in rows} == set()


def test_every_command_and_every_option_is_listed():
    text = README.read_text()
    group = main.cli
    context = click.Context(group)
    commands: Mapping[str, click.Command] = {
        name: command for name in group.list_commands(context) if (command := group.get_command(context, name))
    }
    options = [option.opts for command in commands.values() for option in command.params]

    assert [name for name in commands if f"| `aot {name} " not in text] == []
    assert [flags for flags in options if flags[0][0] == "-" and not any(flag in text for flag in flags)] == []


def test_every_exit_code_of_an_error_is_listed():
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {value.exit_code for value in classes if issubclass(value, errors.AotError)}

    assert [code for code in sorted(codes) if not re.search(rf"^\| {code} \|", README.read_text(), re.MULTILINE)] == []


def demo() -> str:
    """What tools/demo prints on a machine that is set up, where no bundle lies yet."""
    if (ROOT / "dist" / "tiny" / "oci-layout").exists():
        shutil.rmtree(ROOT / "dist" / "tiny")
    with tempfile.TemporaryDirectory() as cache:
        printed = subprocess.run(
            [ROOT / "tools" / "demo"],
            env={**os.environ, "AOT_VENV": sys.prefix, "AOT_CACHE_DIR": cache},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        ).stdout
    return printed.split("$ ", 1)[1].rstrip()


def write() -> None:
    """Writes today's outputs into the README."""
    os.environ[expiry.VARIABLE] = TODAY
    text = README.read_text()
    with tempfile.TemporaryDirectory() as home:
        bundle = built(TINY, Path(home, "tiny"))
        text = played(text, arranged(Path(home, "readme"), bundle, text))
    README.write_text(re.sub(r"(?<=^\$ tools/demo\n).*?(?=^```$)", lambda _: f"$ {demo()}\n", text, flags=re.S | re.M))


if __name__ == "__main__":
    write()
