"""What an import that fails says: what brings the module, or that it is there and does not work."""

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from aot import extras
from aot.cli import main

IMPORTED_AS = {"orbax-checkpoint": "orbax", "pillow": "PIL", "pyelftools": "elftools", "pyopenssl": "OpenSSL"}
IMPORTED_AS |= {"pyyaml": "yaml", "model-signing": "model_signing"}


@pytest.mark.parametrize("extra", ["", "build", "sign"])
def test_every_requirement_of_an_extra_is_known_by_the_module_that_it_brings(extra: str) -> None:
    of_it = [
        line for line in metadata.requires("jax-aot") or () if (f'extra == "{extra}"' if extra else "extra") in line
    ]
    lines = of_it if extra else [line for line in metadata.requires("jax-aot") or () if line not in of_it]
    names = {re.match(r"[\w-]+", line)[0].lower() for line in lines}

    assert {IMPORTED_AS.get(name, name) for name in names} == set(extras._MODULES[extra]) - {"jaxlib"}  # jax brings it


@pytest.mark.parametrize(
    ("module", "advice"),
    [
        ("yaml", "'jax-aot[build]'"),
        ("orbax.checkpoint", "'jax-aot[build]'"),
        ("model_signing", "'jax-aot[sign]'"),
        ("PIL.Image", "jax-aot"),
        ("einops.layers", "einops"),
    ],
)
def test_what_is_not_there_is_named_with_the_extra_that_has_it(module: str, advice: str) -> None:
    error = ModuleNotFoundError(f"No module named {module!r}", name=module)

    assert extras.explain_import(error) == f"{module}: is not installed; install it with: pip install {advice}"


def test_what_is_there_and_cannot_be_imported_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml" / "__init__.py").write_text("raise ImportError('libyaml.so: wrong ELF class', name='yaml')\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "yaml" or name.startswith("aot.plan")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "aot.cli.commands.plan", raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    assert main.run(["plan", "x.yaml"]) == 1
    said = "yaml: is installed and cannot be imported (libyaml.so: wrong ELF class); install what fits this Python\n"
    assert capfd.readouterr().err == said
