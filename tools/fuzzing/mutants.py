"""A mutant by its name: the kind of its bundle and a number, from which all else follows."""

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fuzzing import disk_mutations, file_mutations, index_mutations
from fuzzing.draft import Source

FAMILIES = {**index_mutations.FAMILIES, **file_mutations.FAMILIES, **disk_mutations.FAMILIES}
_SEEING = "index images"
"""The one family that a bundle without pictures has nothing for."""


@dataclass(frozen=True)
class Name:
    """Of a mutant. Numbers take turns through the families, so the first so many have each once."""

    kind: str
    number: int

    @classmethod
    def of(cls, text: str) -> Self:
        """As it is spelled: `text:17`. Raises ValueError."""
        found = re.fullmatch(r"(\w+):(\d+)", text)
        if not found:
            raise ValueError(f"{text!r} names no mutant; give KIND:NUMBER")
        return cls(found[1], int(found[2]))

    @property
    def family(self) -> str:
        """The kind of its mutation."""
        mine = [name for name in FAMILIES if self.kind == "vision" or name != _SEEING]
        return mine[self.number % len(mine)]

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"


@dataclass(frozen=True)
class Mutant:
    """One that was written."""

    name: Name
    root: Path
    said: str
    """What was changed."""
    damaged: bool
    free: bool
    trusted: bool


def write(name: Name, source: Source, root: Path) -> Mutant:
    """Makes a mutant of a sound bundle at a path."""
    draft = source.draft()
    said = FAMILIES[name.family](random.Random(str(name)), draft)
    draft.write(root)
    return Mutant(name, root, said, draft.damaged, draft.free, draft.trusted)
