"""Tells what a worker has imported."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aot import digest
from aot.builder.pace import Progress
from aot.builder.tasks.task import Task
from aot.plan import Plan

WHERE_USED = ("transformers",)
"""Only recorded where a user's model imported it."""


@dataclass(frozen=True)
class Imported:
    """What a process has imported of what is not always there."""

    sources: Mapping[str, str]
    """Digests of the modules of a user's model, by path."""
    wheels: tuple[str, ...]


@dataclass(frozen=True)
class ListImports(Task[Imported]):
    """Lists what was imported for a plan's model; asked of a worker that has done another task."""

    name = "imported"

    plan: Plan

    def perform(self, progress: Progress) -> Imported:
        """What is imported by now."""
        return imported(self.plan)


def imported(plan: Plan) -> Imported:
    """The modules of a plan's user's model among all that are imported, and wheels in use."""
    wheels = tuple(name for name in WHERE_USED if name in sys.modules)
    if plan.model.factory is None:
        return Imported({}, wheels)
    package, directory = plan.model.factory.partition(":")[0].partition(".")[0], plan.model.directory
    files = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or not file.endswith(".py"):
            continue
        relative = name.replace(".", "/") + ("/__init__.py" if Path(file).name == "__init__.py" else ".py")
        if Path(file).resolve() == (directory / relative).resolve() or name.partition(".")[0] == package:
            files[relative] = digest.of_file(Path(file))
    return Imported(files, wheels)
