"""Arrows between packages, sub-packages and files go one way, and serving needs nothing that building does."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import pytest

import aot
from aot.builder import installed
from aot.builder.reuse import identity

ROOT = Path(aot.__file__).parent

ARROWS = {
    "cli": {"audit", "bench", "builder", "golden", "runtime", "plan", "bundle"},
    "audit": {"plan", "builder", "golden", "runtime", "bundle"},
    "bench": {"golden", "runtime", "bundle"},
    "builder": {"plan", "models", "programs", "golden", "runtime", "bundle"},
    "plan": {"models"},
    "models": {"programs"},
    "programs": set(),
    "golden": {"runtime", "bundle"},
    "runtime": {"bundle"},
    "bundle": set(),
}
"""What each package may import beside itself and the modules of none."""
WITHIN = {
    "builder": {
        "stages": {"tasks", "reuse", "lowering", "compiling"},
        "tasks": {"reuse", "lowering", "compiling"},
        "reuse": {"lowering", "compiling"},
        "lowering": {"compiling"},
        "compiling": set(),
    },
    "bundle": {"index": set()},
    "cli": {"commands": set()},
    "models": {"checkpoints": {"families"}, "layers": {"families"}, "families": set()},
    "plan": {"manifests": set()},
    "runtime": {
        "device": {"fitting", "peers"},
        "prompting": {"device", "fitting"},
        "fitting": set(),
        "peers": set(),
    },
}
"""What each sub-package may import of its package beside itself and the modules of no sub-package."""
LARGEST = 15
ROOT_MODULES = {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
NOT_FOR_SERVING = {"flax", "transformers", "torch", "orbax", "yaml", "click", "pydantic"}


def names_of(package: str, node: ast.AST) -> Iterator[str]:
    """Dotted names that a statement of a package may import: modules, and what is taken from them."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        yield from (f"{module}.{alias.name}" for alias in node.names)


def imports(source: str, package: str) -> set[str]:
    """All that a file imports, inside functions and for type checkers too."""
    return {name for node in ast.walk(ast.parse(source)) for name in names_of(package, node)}


def imports_of(path: Path) -> set[str]:
    return imports(path.read_text(), package_of(path))


def parts(names: set[str], package: str = "aot") -> set[str]:
    """The packages and modules of a package among imported names."""
    depth = len(package.split("."))
    return {name.split(".")[depth] for name in names if name.startswith(f"{package}.")}


def package_of(path: Path) -> str:
    return ".".join(["aot", *path.relative_to(ROOT).parts[:-1]])


def module_of(path: Path) -> str:
    named = [*path.relative_to(ROOT.parent).parts[:-1], *([] if path.stem == "__init__" else [path.stem])]
    return ".".join(named)


def graph(paths: list[Path]) -> dict[str, set[str]]:
    """The modules that each module imports."""
    known = {module_of(path) for path in paths}

    def owner(name: str) -> str:
        return name if name in known else name.rpartition(".")[0]

    return {module_of(path): {owner(name) for name in imports_of(path)} & known for path in paths}


def without_leaves(arrows: Mapping[str, Set[str]]) -> Mapping[str, Set[str]]:
    """What is left of a graph once what points at nothing is taken away, again and again: its circles, and no more."""
    rest = dict(arrows)
    while leaves := [name for name, used in rest.items() if not used & rest.keys()]:
        for name in leaves:
            del rest[name]
    return rest


def id_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_of_every_spelling_are_seen():
    source = (
        "import aot.plan.manifests.yaml\nfrom aot import builder as b, digest\nfrom ..bundle import store\n"
        "from . import y\ndef f():\n    from aot.models import registry\n"
    )

    assert parts(imports(source, "aot.runtime")) == {"plan", "builder", "digest", "bundle", "runtime", "models"}


@pytest.mark.parametrize("path", [path for path in FILES if path.parent != ROOT], ids=id_of)
def test_packages_import_along_the_arrows_only(path):
    layer = path.relative_to(ROOT).parts[0]

    used = parts(imports_of(path))

    assert used - ROOT_MODULES - {layer} <= ARROWS[layer]


@pytest.mark.parametrize("path", [path for path in FILES if len(path.relative_to(ROOT).parts) > 2], ids=id_of)
def test_sub_packages_import_along_the_arrows_only(path):
    package, room = path.relative_to(ROOT).parts[:2]

    used = parts(imports_of(path), f"aot.{package}") & WITHIN[package].keys()

    assert used - {room} <= WITHIN[package][room]


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent == ROOT and path.name != "__main__.py"], ids=lambda p: p.name
)
def test_root_modules_import_the_standard_library_and_each_other_only(path):
    names = imports(path.read_text(), "aot")

    assert parts(names) <= ROOT_MODULES
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names | {"aot"}


@pytest.mark.parametrize("layer", ["runtime", "bundle"])
def test_serving_imports_nothing_that_only_building_needs_even_inside_functions(layer):
    names = {name for path in (ROOT / layer).rglob("*.py") for name in imports_of(path)}

    assert {name.split(".")[0] for name in names} & NOT_FOR_SERVING == set()


@pytest.mark.parametrize("arrows", [ARROWS, *WITHIN.values()], ids=["aot", *WITHIN])
def test_arrows_make_no_circle(arrows):
    assert without_leaves(arrows) == {}


def test_files_import_each_other_in_no_circle():
    assert without_leaves(graph(FILES)) == {}


def test_every_sub_package_has_its_arrows_and_none_is_crowded():
    folders = {path.parent for path in FILES} - {ROOT}
    crowd = {id_of(folder): len([p for p in folder.glob("*.py") if p.stem != "__init__"]) for folder in folders}
    rooms = {folder.relative_to(ROOT).parts for folder in folders if folder.parent != ROOT}

    assert {folder: count for folder, count in crowd.items() if count > LARGEST} == {}
    assert rooms == {(package, room) for package, inner in WITHIN.items() for room in inner}


def test_all_that_a_compile_runs_is_among_its_factors():
    inner, found, rest = graph(FILES), set(), ["aot.builder.compiling.compile"]
    while rest:
        found.add(module := rest.pop())
        rest += inner[module] - found
    known = {module_of(ROOT.parent / file) for file in installed.own(identity.COMPILING) if file.endswith(".py")}

    assert found - known == set()


def docstrings(path: Path) -> Iterator[str]:
    """What is said of a module, of its classes, functions and fields."""
    for node in ast.walk(ast.parse(path.read_text())):
        for each in getattr(node, "body", None) if isinstance(getattr(node, "body", None), list) else ():
            if (
                isinstance(each, ast.Expr)
                and isinstance(each.value, ast.Constant)
                and isinstance(each.value.value, str)
            ):
                yield each.value.value


@pytest.mark.parametrize("path", FILES, ids=id_of)
def test_a_docstring_stands_by_itself(path):
    """One that begins so hangs on the name above it."""
    assert [said for said in docstrings(path) if said.split()[0] in {"Of", "By", "Those", "Its", "Such", "That"}] == []


def loaded_by(module: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter has after one import."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(result.stdout.split())


def test_the_runtime_loads_nothing_that_only_building_needs():
    assert loaded_by("aot.runtime.loading") & NOT_FOR_SERVING == set()


def test_aot_itself_loads_neither_jax_nor_what_only_building_needs():
    assert loaded_by("aot") & (NOT_FOR_SERVING | {"jax", "jaxlib"}) == set()


def test_planning_loads_neither_jax_nor_a_framework():
    modules = "aot.plan, aot.models.families.registry, aot.models.checkpoints.checkpoint"

    assert loaded_by(modules) & {"jax", "flax", "orbax", "torch"} == set()
