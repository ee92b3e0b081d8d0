"""Tells what a worker has imported."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot import digest

if TYPE_CHECKING:
    from aot.plan import Plan

WHERE_USED = ("transformers",)
"""Only recorded where a user's model imported it."""


def imported(plan: "Plan") -> dict[str, Any]:
    """Digests of the user's modules among all that are imported, by path, and wheels in use."""
    wheels = [name for name in WHERE_USED if name in sys.modules]
    if plan.model.factory is None:
        return {"sources": {}, "wheels": wheels}
    package, directory = plan.model.factory.partition(":")[0].partition(".")[0], plan.model.directory
    files = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or not file.endswith(".py"):
            continue
        relative = name.replace(".", "/") + ("/__init__.py" if Path(file).name == "__init__.py" else ".py")
        if Path(file).resolve() == (directory / relative).resolve() or name.partition(".")[0] == package:
            files[relative] = digest.of_file(Path(file))
    return {"sources": files, "wheels": wheels}
