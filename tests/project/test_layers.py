import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aot

ROOT = Path(aot.__file__).parent

ARROWS = {
    "cli": {"audit", "bench", "builder", "runtime", "plan", "bundle"},
    "audit": {"plan", "builder", "runtime", "bundle"},
    "bench": {"runtime", "bundle"},
    "builder": {"plan", "models", "programs", "runtime", "bundle"},
    "plan": {"models"},
    "models": {"programs"},
    "programs": set(),
    "runtime": {"bundle"},
    "bundle": set(),
}
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


def parts(names: set[str]) -> set[str]:
    """The packages and root modules of aot among imported names."""
    return {name.split(".")[1] for name in names if name.startswith("aot.")}


def package_of(path: Path) -> str:
    return ".".join(["aot", *path.relative_to(ROOT).parts[:-1]])


def test_imports_of_every_spelling_are_seen():
    source = (
        "import aot.plan.yaml\nfrom aot import builder as b, digest\nfrom ..bundle import store\nfrom . import y\n"
        "def f():\n    from aot.models import registry\n"
    )

    assert parts(imports(source, "aot.runtime")) == {"plan", "builder", "digest", "bundle", "runtime", "models"}


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent != ROOT], ids=lambda p: str(p.relative_to(ROOT))
)
def test_packages_import_along_the_arrows_only(path):
    layer = path.relative_to(ROOT).parts[0]

    used = parts(imports(path.read_text(), package_of(path)))

    assert used - ROOT_MODULES - {layer} <= ARROWS[layer]


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent == ROOT and path.name != "__main__.py"], ids=lambda p: p.name
)
def test_root_modules_import_the_standard_library_and_each_other_only(path):
    names = imports(path.read_text(), "aot")

    assert parts(names) <= ROOT_MODULES
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names | {"aot"}


@pytest.mark.parametrize("layer", ["runtime", "bundle"])
def test_serving_imports_nothing_that_only_building_needs_even_inside_functions(layer):
    names = {name for path in (ROOT / layer).rglob("*.py") for name in imports(path.read_text(), package_of(path))}

    assert {name.split(".")[0] for name in names} & NOT_FOR_SERVING == set()


def test_arrows_make_no_circle():
    rest = dict(ARROWS)
    while leaves := [layer for layer, used in rest.items() if not used & rest.keys()]:
        for layer in leaves:
            del rest[layer]

    assert rest == {}


def loaded_by(module: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter has after one import."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(result.stdout.split())


def test_the_runtime_loads_nothing_that_only_building_needs():
    assert loaded_by("aot.runtime") & NOT_FOR_SERVING == set()


def test_aot_itself_loads_neither_jax_nor_what_only_building_needs():
    assert loaded_by("aot") & (NOT_FOR_SERVING | {"jax", "jaxlib"}) == set()


def test_planning_loads_neither_jax_nor_a_framework():
    assert (
        loaded_by("aot.plan, aot.models.registry, aot.models.checkpoint") & {"jax", "flax", "orbax", "torch"} == set()
    )
