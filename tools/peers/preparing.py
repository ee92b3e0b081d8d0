"""A peer made ready in a scratch directory: its virtual environment, and what it makes of the checkpoint.

venvs/PEER        the environment, kept until the peer's requirements change
DTYPE/PEER        what was prepared for a dtype, kept until it is removed
logs/             what pip and the converters said
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from aot.bench import group
from aot.bench.process import Contestant

_TOOLS = Path(__file__).resolve().parents[1]
_READY = "ready.json"
_OFFLINE = {"HF_HUB_OFFLINE": "1", "PYTHONNOUSERSITE": "1", "PYTHONPATH": str(_TOOLS)}
"""What runs in a peer's environment sees the peers and no model hub."""


class FailedError(Exception):
    """A peer that cannot be made ready; says why."""


@dataclass(frozen=True)
class Ready:
    """A peer that can be measured."""

    contestants: tuple[Contestant, ...]
    seconds: float
    """What its preparing took."""


def ready(name: str, dtype: str, scratch: Path, checkpoint: Path, memory: int) -> Ready:
    """Installs and prepares what is missing. Raises FailedError."""
    peer = importlib.import_module(f"peers.{name}")
    if dtype not in peer.VARIANTS:
        raise FailedError(f"has nothing for {dtype}, only for {', '.join(peer.VARIANTS)}")
    python = _environment(name, peer, scratch)
    home, log = scratch / dtype / name, scratch / "logs" / f"{dtype}.{name}.log"
    if not (home / _READY).exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        begin = time.monotonic()
        _run([python, "-m", f"peers.{name}", "prepare", dtype, checkpoint, home], log)
        (home / _READY).write_text(json.dumps({"seconds": time.monotonic() - begin}))
    files = tuple(path for root in (home, python.parents[1]) for path in _mapped(root))
    commands = {each: (str(python), "-m", f"peers.{name}", "measure", dtype, each) for each in peer.VARIANTS[dtype]}
    contestants = (Contestant(each, (*line, str(home)), _OFFLINE, files, memory) for each, line in commands.items())
    return Ready(tuple(contestants), json.loads((home / _READY).read_text())["seconds"])


def _environment(name: str, peer: ModuleType, scratch: Path) -> Path:
    """The Python of a peer's virtual environment."""
    venv, wanted = scratch / "venvs" / name, "\n".join(peer.REQUIREMENTS)
    python, stamp = venv / "bin" / "python", venv / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        log = scratch / "logs" / f"{name}.pip.log"
        _run([_base(peer), "-m", "venv", "--clear", venv], log)
        _run([python, "-m", "pip", "install", *peer.REQUIREMENTS], log)
        if unwanted := getattr(peer, "UNWANTED", ()):
            _run([python, "-m", "pip", "uninstall", "--yes", *unwanted], log)
        stamp.write_text(wanted)
    return python


def _base(peer: ModuleType) -> str:
    """The Python for a peer: for 3.11 PyPI has a torch without CUDA, for later ones one of gigabytes."""
    needs_torch = any(requirement.startswith("torch==") for requirement in peer.REQUIREMENTS)
    older = shutil.which("python3.11") if needs_torch else None
    if older and subprocess.run([older, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0:
        return older
    return sys.executable


def _run(command: list[object], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        try:
            run(command, env={**os.environ, **_OFFLINE}, stdout=file, stderr=subprocess.STDOUT)
        except subprocess.CalledProcessError as error:
            said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise FailedError(f"{said[-1].strip() if said else f'exit code {error.returncode}'} ({log})") from None


def run(command: Sequence[object], **options: Any) -> None:
    """Runs a command of which nothing outlives this process. Raises CalledProcessError."""
    with group.running_group([*map(str, command)], **options) as process:
        if code := process.wait():
            raise subprocess.CalledProcessError(code, [*map(str, command)])


def _mapped(root: Path) -> list[Path]:
    """What a process may read of a directory: of an environment its modules and shared objects, else all."""
    if not (root / "pyvenv.cfg").exists():
        return [path for path in sorted(root.rglob("*")) if path.is_file()] + sorted(root.glob("checkpoint/*"))
    return [path for suffix in (".so*", ".pyc") for path in sorted(root.rglob(f"*{suffix}")) if not path.is_symlink()]
