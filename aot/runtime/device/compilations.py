"""How often XLA compiled in this process."""

import importlib.util
import sys
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class _Listener(MetaPathFinder):
    """Counts the backend compiles of the process, which jax alone can cause: it listens as soon as jax is imported."""

    def __init__(self) -> None:
        self.count = 0
        if "jax" in sys.modules:
            self._listen(importlib.import_module("jax.monitoring"))
        else:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """Nothing, but for jax's own monitoring a loader that has us listen from its first moment."""
        if name != "jax.monitoring":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self._listen(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def _listen(self, monitoring: Any) -> None:
        monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration: float, **_: Any) -> None:
        self.count += event == _COMPILE_EVENT


def watch_compilations() -> None:
    """Begins to count, where that has not begun: jax tells of a compile only who has asked it to."""
    _listener()


def count_compilations() -> int:
    """Backend compiles of this process since it is watched."""
    return _listener().count


@cache
def _listener() -> _Listener:
    return _Listener()
