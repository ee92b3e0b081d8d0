"""What a task of a worker is: its fields say all that it takes, its type what it gives.

Each lies in the module of this package that does it, which a builder may import as well: jax comes with the doing.
"""

import importlib
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

from aot.builder import messages
from aot.builder.messages import Asked
from aot.builder.pace import Progress

R = TypeVar("R")


class Task(Generic[R]):
    """A frozen dataclass that a builder makes and a worker performs; the result is an `R`."""

    name: ClassVar[str]
    """What it is called where its worker dies of it."""
    apart: ClassVar[bool] = False
    """Whether it needs a process that has done nothing before."""

    def perform(self, progress: Progress) -> R:
        """The result, made in this process; `progress` hears of the parts."""
        raise NotImplementedError(type(self))

    @classmethod
    def result(cls) -> type[R]:
        """The type of what it gives."""
        kind: type[R] = get_type_hints(cls.perform)["return"]
        return kind

    def asked(self) -> Asked:
        """The task as a message."""
        return Asked(type(self).__module__, type(self).__name__, messages.plain(self))


def task_of(asked: Asked) -> Task[Any]:
    """The task that a builder asks for."""
    kind: type[Task[Any]] = getattr(importlib.import_module(asked.module), asked.name)
    return messages.read(kind, asked.task)
