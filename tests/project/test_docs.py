"""What the pages show is what happens. Run as a script, it writes today's outputs into them:

PYTHONPATH=.:tests:tests/support python tests/project/test_docs.py
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
import yaml
from bundles import TODAY
from commands import aot, built
from places import ROOT, TINY
from pydantic import BaseModel

from aot import errors
from aot.bundle import store
from aot.cli import main
from aot.plan.manifests.manifest import Content
from aot.plan.manifests.sections import Generation, Model, Precompile
from aot.runtime.fitting import expiry

README = ROOT / "README.md"
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples"
PAGES = (README, *sorted(DOCS.glob("*.md")), *sorted(EXAMPLES.rglob("*.md")))
"""Those whose sessions are played, one after the other, in one directory."""
LINKED = (*PAGES, ROOT / "CONTRIBUTING.md")
MANIFESTS = sorted(path for path in EXAMPLES.rglob("*.yaml") if path.parent.name != "ci")
RECIPES = sorted((EXAMPLES / "ci").glob("*.yaml"))
SHOWN = {
    "README.md": ["examples/checkpoint/manifest.yaml"],
    "docs/custom-models.md": ["examples/custom-model/scale.py", "examples/custom-model/scale.yaml"],
    "docs/manifest.md": ["manifests/tiny.yaml"],
}
"""Files that pages show whole."""
GLOSSARY = ["manifest", "combo", "key", "entry", "phase", "program", "executable", "chain", "slot", "bundle"]
ELSEWHERE = {"aot/constraints.txt"}
"""What lies in the repository of who uses us."""
OWN_VARIABLES = {"AOT_BENCH_START", "AOT_CORE", "AOT_EMULATED_CPU"}
"""Those that our processes set for one another."""
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FENCED = re.compile(r"^```\w*\n.*?^```$", re.DOTALL | re.MULTILINE)
_VARIES = re.compile(r"\b[0-9a-f]{12,64}\b|\b[0-9.]+ [KMG]iB\b|\d{4}-\d\d-\d\d")  # from one set of packages to another
_SESSION = "console", "pycon"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture
def directory(tmp_path: Path, tiny_bundle: Path) -> Path:
    return arranged(tmp_path / "checkout", tiny_bundle)


def arranged(directory: Path, tiny: Path) -> Path:
    """A directory as the pages suppose it: the manifests, the examples and the demo's bundle."""
    (directory / "dist").mkdir(parents=True)
    (directory / "manifests").symlink_to(ROOT / "manifests")
    (directory / "dist" / "tiny").symlink_to(tiny)
    shutil.copytree(EXAMPLES, directory / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return directory


def blocks(text: str) -> list[tuple[str, str]]:
    return [(block[1], block[2]) for block in _BLOCK.finditer(text)]


def all_pages() -> str:
    return "\n".join(page.read_text() for page in PAGES)


def played(text: str, directory: Path) -> str:
    """A page with the outputs that its sessions give in a directory."""
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
            exec(compile(source, "page.md", "single"), names)
        yield from shown.getvalue().splitlines()


def test_what_the_sessions_show_is_what_they_give(directory: Path):
    """To the last digit of every digest where the packages are those that the pages were written with."""
    shown = {name_of(page): page.read_text() for page in PAGES}
    made = {name: played(text, directory) for name, text in shown.items()}
    if installed() != pinned():
        made, shown = ({name: _VARIES.sub("…", text) for name, text in pages.items()} for pages in (made, shown))

    assert {name for name, _ in blocks(README.read_text())} >= set(_SESSION)
    assert {name: text.splitlines() for name, text in made.items()} == {n: t.splitlines() for n, t in shown.items()}


def test_every_digest_of_a_bundle_is_of_one_that_is_built_here(tiny_bundle: Path, directory: Path):
    """A digest that changes is a promise broken, or a change to programs that a commit explains."""
    if installed() != pinned():
        pytest.skip(f"the pages' digests are of {pinned()}, installed is {installed()}")
    scale = built(directory / "examples" / "custom-model" / "scale.yaml", directory / "built")
    known = {str(store.open(bundle).digest) for bundle in (tiny_bundle, scale)}

    assert set(re.findall(r"^(sha256:[0-9a-f]{64})$", all_pages(), re.MULTILINE)) == known


def installed() -> dict[str, str]:
    """The versions that decide programs and executables."""
    return {name: metadata.version(name) for name in ("jax", "jaxlib")}


def pinned() -> dict[str, str]:
    """The same of the newest set, by which the pages are written."""
    rows = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    return {name: version for name, version in rows if name in ("jax", "jaxlib")}


@pytest.mark.parametrize(("page", "file"), [(page, file) for page, files in SHOWN.items() for file in files])
def test_a_file_that_a_page_shows_is_the_file(page: str, file: str):
    """The manifest that is explained is the one that the demo builds, and examples are what is told of them."""
    language = {".yaml": "yaml", ".py": "python"}[Path(file).suffix]
    shown = [block for name, block in blocks((ROOT / page).read_text()) if name == language]

    assert (ROOT / file).read_text() in shown


@pytest.mark.parametrize(
    ("prefix", "section"), [("", Content), ("model.", Model), ("precompile.", Precompile), ("generation.", Generation)]
)
def test_every_key_of_a_manifest_is_explained(prefix: str, section: type[BaseModel]):
    rows = "\n".join(re.findall(r"^\| (`.*?) \|", (DOCS / "manifest.md").read_text(), re.MULTILINE))
    keys = {f"{prefix}{name}" for name in section.model_fields}

    assert {key for key in keys - {"model", "generation"} if f"`{key}`" not in rows} == set()


def commands() -> Mapping[str, click.Command]:
    group = main.cli
    context = click.Context(group)
    return {name: command for name in group.list_commands(context) if (command := group.get_command(context, name))}


def options(command: click.Command) -> list[list[str]]:
    return [option.opts for option in command.params if option.opts[0][0] == "-"]


@pytest.mark.parametrize("page", [README, DOCS / "cli.md"], ids=name_of)
def test_every_command_has_a_row(page: Path):
    rows = re.findall(r"^\| `aot (\w+)[ `]", page.read_text(), re.MULTILINE)

    assert sorted(rows) == sorted(commands())


def test_every_option_of_a_command_is_listed():
    text = (DOCS / "cli.md").read_text()
    flags = [each for command in commands().values() for each in options(command)]

    assert [each for each in flags if not any(flag in text for flag in each)] == []


def test_every_exit_code_of_an_error_is_listed():
    text = (DOCS / "cli.md").read_text()
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {value.exit_code for value in classes if issubclass(value, errors.AotError)}

    assert [code for code in sorted(codes) if not re.search(rf"^\| {code} \|", text, re.MULTILINE)] == []


def test_every_variable_of_the_environment_is_listed():
    rows = "\n".join(re.findall(r"^\| (`.*?) \|", (DOCS / "cli.md").read_text(), re.MULTILINE))
    files = [*(ROOT / "aot").rglob("*.py"), *(path for path in (ROOT / "tools").iterdir() if path.is_file())]
    ours = {name for path in files for name in re.findall(r"\bAOT_[A-Z]+(?:_[A-Z]+)*\b", path.read_text())}
    said = set(re.findall(r"^    ([A-Z_]+)  ", aot("--help").out, re.MULTILINE))

    assert {name for name in ours - OWN_VARIABLES | said if f"`{name}`" not in rows} == set()


def called(text: str) -> Iterator[tuple[str, str]]:
    """Each call of a command in lines of shell, and what follows its name."""
    for call in re.finditer(r"(?<![\w/.-])aot ([a-z]+)\b([^|&;>#\n]*)", text):
        yield call[1], call[2]


def strangers(text: str) -> list[str]:
    """Calls of commands that there are not, or with options that they do not have."""
    known = {name: {flag for each in options(command) for flag in each} for name, command in commands().items()}
    return [
        f"aot {name}{rest}"
        for name, rest in called(text)
        if name not in known or not set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)) <= known[name]
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_is_called_without_being_played_is_a_command_with_its_options(page: Path):
    fenced = "\n".join(block[0] for block in _FENCED.finditer(page.read_text()))

    assert strangers("\n".join(re.findall(r"^\$ (.*)$", fenced, re.MULTILINE))) == []


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_a_recipe_calls_commands_with_their_options(recipe: Path):
    lines = "\n".join(texts(yaml.safe_load(recipe.read_text())))

    assert {name for name, _ in called(lines)} >= {"plan", "build", "verify", "check", "audit", "sign", "gc"}
    assert strangers(lines) == []
    assert "skopeo copy" in lines
    assert "chmod go-w" in lines


def texts(value: Any) -> Iterator[str]:
    """All texts in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts(each)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=name_of)
def test_a_manifest_of_an_example_can_be_planned(manifest: Path):
    planned = aot("plan", manifest)

    assert (planned.code, planned.err) == (0, "")


@pytest.mark.thorough
def test_examples_that_are_not_played_give_what_they_promise(directory: Path, tmp_path: Path):
    for name in ("pictures", "mesh"):
        built(directory / "examples" / name / "manifest.yaml", directory / "dist" / name)
    ask = [sys.executable, "examples/pictures/ask.py", "manifests/tiny-vision/blue-square.png", "What colour is it?"]
    colour = subprocess.run(ask, cwd=directory, capture_output=True, text=True, check=True).stdout
    one, four = (
        aot("run", directory / "dist" / name, "def main(", "--max-new-tokens", 8, *more)
        for name, more in (("tiny", ()), ("mesh", ("--devices", 4)))
    )

    assert colour == "blue\n"
    assert (four.code, four.out) == (0, one.out)


def outside_of_code(text: str) -> str:
    return re.sub(r"`[^`]*`", "", _FENCED.sub("", text))


def headings(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    titles = re.findall(r"^#+ (.*)$", _FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    """Where a page's links lead within the repository."""
    found = re.findall(r"\]\(([^()\s]+)\)", outside_of_code(page.read_text()))
    return [link for link in found if "://" not in link]


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path):
    def broken(link: str) -> bool:
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        return not target.exists() or (bool(heading) and heading not in headings(target))

    assert [link for link in links(page) if broken(link)] == []


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_every_file_that_a_page_names_is_there(page: Path):
    spans = " ".join(re.findall(r"`([^`]*)`", _FENCED.sub("", page.read_text())))
    named = re.findall(r"(?<![\w/.-])((?:aot|tests|tools|manifests|examples|docs|\.ci)/[\w./-]+)", spans)

    assert [name for name in named if not (ROOT / name).exists() and name not in ELSEWHERE] == []


def test_the_readme_is_short_and_leads_to_every_page():
    reached = {(ROOT / link.partition("#")[0]).resolve() for link in links(README)}

    assert len(README.read_text().splitlines()) <= 200
    assert {page for page in LINKED if page.parent in (ROOT, DOCS)} - {README} <= reached
    assert EXAMPLES / "README.md" in reached


def test_examples_are_all_listed_and_have_a_page():
    listed = {(EXAMPLES / link).resolve() for link in links(EXAMPLES / "README.md")}

    assert {path / "README.md" for path in EXAMPLES.iterdir() if path.is_dir()} <= listed


def test_the_readme_says_what_its_words_mean():
    rows = re.findall(r"^\| (\w+) \| ", README.read_text(), re.MULTILINE)

    assert [word for word in GLOSSARY if word not in rows] == []


MEASURED = {
    "AMD EPYC with AVX2, float32": "float32",
    "the same, bfloat16": "bfloat16",
    "Intel Xeon with AMX, bfloat16, jax 0.10.2": "bfloat16, Intel Xeon with AMX",
}
"""Rows of the README's table, and the heads of the tables that they are of."""


def test_the_figures_of_the_readme_are_those_of_the_benchmarks():
    benchmarks = (DOCS / "benchmarks.md").read_text()
    shown = README.read_text().partition("## A cold start")[2].partition("\n\n| ")[2].partition("\n\n")[0]
    (_, *names), _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines())

    assert [row[0] for row in rows] == list(MEASURED)
    for label, *figures in rows:
        measured = benchmarks.partition(f"| {MEASURED[label]} | first token |")[2].partition("\n\n")[0]
        told = [(name, figure.split(", ")) for name, figure in zip(names, figures, strict=True) if figure]
        assert len(told) > 4
        assert [name for name, (one, sixteen) in told if f"\n| {name} | {one} s | {sixteen} s |" not in measured] == []


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
    """Writes today's outputs into the pages."""
    os.environ[expiry.TODAY_VARIABLE] = TODAY
    with tempfile.TemporaryDirectory() as home:
        directory = arranged(Path(home, "checkout"), built(TINY, Path(home, "tiny")))
        for page in PAGES:
            page.write_text(played(page.read_text(), directory))
    shown = re.compile(r"(?<=^\$ tools/demo\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
    README.write_text(shown.sub(lambda _: f"$ {demo()}\n", README.read_text()))


if __name__ == "__main__":
    write()
