"""Directories that a run of the tests fills once, whichever of its processes comes to them first."""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path


class Shared:
    """Gives directories by name; those that another process is filling are waited for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        """Of the run: the same for all of its processes."""

    def __call__(self, name: str, fill: Callable[[Path], object]) -> Path:
        home, filled = self.root / name, self.root / f"{name}.filled"
        with open(self.root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not filled.exists():
                shutil.rmtree(home, ignore_errors=True)  # of one who failed
                home.mkdir()
                fill(home)
                filled.touch()
        return home
