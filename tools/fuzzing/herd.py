"""Many mutants, each kind in processes of its own that have imported what its commands need and begun no client."""

import gc
import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aot import system
from fuzzing import judge, mutants
from fuzzing.draft import Source
from fuzzing.judge import Judged
from fuzzing.mutants import Mutant, Name
from fuzzing.sound import Sound

_FORK = multiprocessing.get_context("fork")
_IMPORTED = (
    "aot",
    *(f"aot.cli.commands.{command}" for command in judge.COMMANDS),
    "aot.golden.replay",
    "aot.runtime.loading",
    "aot.runtime.device.jaxlib_client",
    *(f"aot.runtime.prompting.{name}" for name in ("chat", "encoding", "pictures", "text")),
    *("jinja2.sandbox", "rich._emoji_codes", "tokenizers", "PIL.ImageOps", "PIL.PngImagePlugin"),
)
_IMPORTED_FOR_A_MESH = ("jax", "aot.runtime.device.mesh_client")


@dataclass(frozen=True)
class Bounds:
    """How much is done."""

    first: int
    count: int
    """Mutants of each kind."""
    seconds: float
    jobs: int


class Stable:
    """One kind of bundle, ready to have mutants made and judged in this process."""

    def __init__(self, sound: Sound, scratch: Path) -> None:
        for name in (*_IMPORTED, *(_IMPORTED_FOR_A_MESH if sound.kind == "mesh" else ())):
            importlib.import_module(name)
        self._sound, self._source, self._scratch = sound, Source.of(sound.path), scratch
        self._right = self._answer()
        gc.freeze()  # what a child's collector does not look at is not copied for it

    def judged(self, number: int, keep: Path | None = None) -> tuple[Mutant, Judged]:
        """What becomes of a mutant, which is then gone unless it is to be kept."""
        home = keep or Path(tempfile.mkdtemp(dir=self._scratch))
        try:
            mutant = mutants.write(Name(self._sound.kind, number), self._source, home / "bundle")
            return mutant, judge.judge(mutant, self._sound, self._right, home)
        finally:
            if keep is None:
                shutil.rmtree(home)

    def _answer(self) -> Any:
        """The tokens of the sound bundle, which has to pass all commands."""
        home = Path(tempfile.mkdtemp(dir=self._scratch))
        self._source.draft().write(home / "bundle")
        copy = Mutant(Name(self._sound.kind, 0), home / "bundle", "", damaged=False, free=True, trusted=True)
        found = judge.judge(copy, self._sound, None, home)
        shutil.rmtree(home)
        for command, done in found.finished.items():
            if done.code:
                sys.exit(f"the sound {self._sound.kind} bundle does not pass {command}: {done.err or done.out}")
        return judge.tokens(found.finished["run"])


def judged(bundles: Mapping[str, Sound], bounds: Bounds, scratch: Path) -> Iterator[Judged]:
    """What becomes of each mutant, as it is known."""
    turns, found = _FORK.Semaphore(bounds.jobs), _FORK.Queue()
    until = time.monotonic() + bounds.seconds
    crowd = [
        _FORK.Process(target=_work, args=(os.getpid(), sound, bounds, job, until, scratch, turns, found), daemon=True)
        for sound in bundles.values()
        for job in range(bounds.jobs)
    ]
    for process in crowd:
        process.start()
    for _ in range(len(crowd)):
        yield from iter(found.get, None)
    for process in crowd:
        process.join()
        if process.exitcode:
            sys.exit("mutants could not be made or judged; the reason is above")


def _work(
    parent: int, sound: Sound, bounds: Bounds, job: int, until: float, scratch: Path, turns: Any, found: Any
) -> None:
    system.end_with(parent)
    try:
        with turns:
            stable = Stable(sound, scratch)
        for number in range(bounds.first + job, bounds.first + bounds.count, bounds.jobs):
            with turns:
                if time.monotonic() > until:
                    return
                found.put(stable.judged(number)[1].brief())
    finally:
        found.put(None)
