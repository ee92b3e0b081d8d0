"""tools/setup takes the newest Python that it can use, says which, and how to get one that it can use."""

import datetime
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from places import ROOT

from aot.builder.stages import releases
from aot.builder.stages.releases import Release

Setup = Callable[..., str]

PYTHON = """\
#!/bin/sh
case "$*" in
    *version_info*) echo {version} ;;
    *ensurepip*) exit {bare} ;;
    "-m venv"*) exit 9 ;;
esac
"""
"""As much of a Python as is asked of one; it makes no environment, which ends the setup."""
SHIM = "#!/bin/sh\nexit 127\n"


def put(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


def python(file: Path, version: str, bare: bool = False) -> Path:
    return put(file, PYTHON.format(version=version, bare=int(bare)))


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    """Runs it where nothing is on the PATH but some tools, and gives what it says, without its name."""
    for tool in ("cat", "cut", "date", "dirname", "sh", "sha256sum", "tr"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)

    def run(code: int | None = None, **variables: str) -> str:
        places = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path), "AOT_VENV": str(tmp_path / "venv")}
        given = {"AOT_TODAY": "2026-12-17", **places, **variables}
        done = subprocess.run([ROOT / "tools" / "setup"], env=given, capture_output=True, text=True)
        assert (done.returncode in ((code,) if code else (1, 9)), done.stdout) == (True, "")
        return done.stderr.replace("tools/setup: ", "")

    return run


def test_the_newest_python_is_taken_wherever_it_is_found(tmp_path: Path, setup: Setup) -> None:
    python(tmp_path / "bin" / "python3.12", "3.12")
    put(tmp_path / "bin" / "python3.13", SHIM)
    newest = python(tmp_path / ".pyenv" / "versions" / "3.13.0" / "bin" / "python", "3.13")

    assert setup() == f"making {tmp_path}/venv with {newest}, Python 3.13: the newest found\n"


def test_of_a_version_that_both_have_the_one_on_the_path_is_taken(tmp_path: Path, setup: Setup) -> None:
    python(tmp_path / "bin" / "python3.14", "3.14")
    python(tmp_path / ".pyenv" / "versions" / "3.14.1" / "bin" / "python", "3.14")

    assert "with python3.14, Python 3.14: the newest found" in setup()


def test_a_python_without_venv_is_passed_over_and_named_where_there_is_no_other(tmp_path: Path, setup: Setup) -> None:
    python(tmp_path / "bin" / "python3.13", "3.13", bare=True)
    alone = setup(code=4)
    python(tmp_path / "bin" / "python3.12", "3.12")

    assert "python3.13 has no venv and pip (on Debian: apt-get install python3.13-venv)" in alone
    assert "with python3.12, Python 3.12" in setup()


def test_on_the_last_day_of_its_jax_python_3_11_is_taken_with_advice_and_refused_on_the_next(
    tmp_path: Path, setup: Setup
) -> None:
    python(tmp_path / "bin" / "python3.11", "3.11")

    assert setup().splitlines() == [
        f"making {tmp_path}/venv with python3.11, Python 3.11: the newest found",
        "it ends with jax 0.10.2, whose programs expire after 2026-12-17; for a newer jax install Python 3.12, 3.13 or "
        "3.14 (with uv: uv python install 3.13; with pyenv: pyenv install 3.13), or name one in AOT_PYTHON",
    ]
    assert "whose programs expired after 2026-12-17; install Python 3.12, 3.13" in setup(AOT_TODAY="2026-12-18", code=7)


def test_where_only_python_3_11_is_there_uv_brings_a_newer_one(tmp_path: Path, setup: Setup) -> None:
    python(tmp_path / "bin" / "python3.11", "3.11")
    brought = python(tmp_path / "uv" / "python", "3.13")
    asked = tmp_path / "asked"
    answers = f'case "$*" in "python install"*) > {asked} ;; *3.13) [ -e {asked} ] && echo {brought} ;; esac'
    put(tmp_path / "bin" / "uv", f"#!/bin/sh\n{answers}\n")

    assert setup() == f"making {tmp_path}/venv with {brought}, Python 3.13: the newest found\n"


def test_a_version_that_is_named_is_looked_for_alone(tmp_path: Path, setup: Setup) -> None:
    python(tmp_path / "bin" / "python3.13", "3.13")
    wanted = python(tmp_path / ".pyenv" / "versions" / "3.11.7" / "bin" / "python", "3.11")

    assert f"with {wanted}, Python 3.11: as AOT_PYTHON says" in setup(AOT_PYTHON="3.11")
    assert setup(AOT_PYTHON="3.12", code=4).startswith("Python 3.12 is needed, and none was found; install")


def test_a_python_that_is_named_is_taken_or_refused_and_no_other(tmp_path: Path, setup: Setup) -> None:
    python(tmp_path / "bin" / "python3.13", "3.13")
    older, old = python(tmp_path / "older", "3.12"), python(tmp_path / "old", "3.9")

    assert f"with {older}, Python 3.12: as AOT_PYTHON says" in setup(AOT_PYTHON=str(older))
    assert setup(AOT_PYTHON=str(old)).startswith(f"{old} is Python 3.9; install Python 3.12")
    assert setup(AOT_PYTHON="python9").startswith("python9 is no Python that runs; install")


def test_the_day_on_which_python_3_11_ends_is_that_of_its_jax() -> None:
    last = Release("0.10.2", datetime.date.fromisoformat(releases.release_days()["0.10.2"])).valid_until

    assert f"last={last} " in (ROOT / "tools" / "setup").read_text()
    assert "jax==0.10.2\n" in (ROOT / "constraints-python-3.11.txt").read_text()
    assert os.access(ROOT / "tools" / "setup", os.X_OK)
