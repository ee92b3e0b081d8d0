"""Python processes of ours: started so that they import nothing from where they happen to stand."""

import os
import site
import sys
from pathlib import Path


def child_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Runs a module of ours; without the working directory, in which files of strangers may lie, on its path."""
    return (sys.executable, "-P", "-m", module, *arguments)


def child_variables() -> dict[str, str]:
    """Environment variables for it, beside ours: a path on which it finds this very package, wherever we found it."""
    home = str(Path(__file__).resolve().parents[1])
    homes = [] if home in site.getsitepackages() else [home]
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # of which an empty one is where we stand
    return {"PYTHONPATH": os.pathsep.join([*homes, *filter(None, given)])}
