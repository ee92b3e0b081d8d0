"""Python processes of ours import nothing from the directory in which they are started."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import synthetic
from peer import free_port

import aot
from aot import children
from aot.bench import measuring, process_memory
from aot.bench.trial import Trial
from aot.bundle import store
from aot.runtime.peers import meeting

HOSTILE = "open(__file__ + '.ran', 'w').close()\n"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in which modules lie that would run in place of those that ours import."""
    for name in ("secrets", "hmac", "json", "socket", "selectors", "numpy", "jaxlib", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(HOSTILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", "") + os.pathsep)  # ends as in PATH=$PATH:$NOTHING
    return tmp_path


def ran(trap: Path) -> list[str]:
    return [path.name for path in trap.glob("*.ran")]


def test_the_coordinator_imports_nothing_from_where_it_stands(trap: Path) -> None:
    distributed = aot.Distributed(f"127.0.0.1:{free_port()}", 2, 0, timeout=0.1)
    with meeting._coordinator(distributed):
        code = meeting._started[-1].wait(60)

    assert (code, ran(trap)) == (0, [])


def test_processes_that_are_measured_import_nothing_from_where_they_stand(
    trap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Process(subprocess.Popen[str]):
        def __init__(self, command: Any, **options: Any) -> None:
            seen.append((command, options["env"]))
            super().__init__(["true"], **options)

    synthetic.write(trap / "b")
    trial = Trial((1,), 1, "once", None)
    contestants = [measuring.bundle_contestant(store.open(trap / "b"), trial), measuring.bandwidth_contestant()]
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", Process)
        with pytest.raises(ChildProcessError):
            process_memory.of_second("b", trial)
    commands = [(each.command, {**os.environ, **each.variables}) for each in contestants]
    for (python, *options), variables in (*commands, *seen):
        code = "import secrets, json, socket, numpy, aot.bench"
        subprocess.run([python, *options[: options.index("-m")], "-c", code], env=variables, cwd=trap, check=True)

    assert ran(trap) == []
    assert len(seen) == 1


def test_a_child_finds_the_very_package_of_its_parent(tmp_path: Path) -> None:
    code = "import aot; print(aot.__file__)"
    python, *options = children.child_command("none")
    command = [python, *options[: options.index("-m")], "-c", code]
    found = subprocess.run(command, env={**os.environ, **children.child_variables()}, cwd=tmp_path, capture_output=True)

    assert found.stdout.decode().strip() == aot.__file__
