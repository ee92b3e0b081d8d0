"""Slots: what the arrays of calls lie in, each with a name of two parts, `kind/path`.

The kind says where an array comes from:

    weight/<path>   a weight, placed once when the bundle is loaded
    gathered/<path> a weight that a mesh splits, put together on every device by the phase `gather`, once a generation
    input/<name>    what the caller of the phase passes
    state/<path>    what the phases of one generation carry from call to call; zeros at the start
    source/<path>   the state of another generation, read and left as it is
    value/<name>    what one call of a chain hands to a later one
    output/<name>   what the caller gets back

Where arrays are kept by slot the name itself is the key: a decode step looks up hundreds of them, and a plain text is
found sooner than what is made of it.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Kind(str):
    """The kind of some slots, which begins their names."""

    prefix: str

    def __new__(cls, name: str) -> "Kind":
        made = super().__new__(cls, name)
        made.prefix = f"{name}/"
        return made

    def slot(self, path: str) -> str:
        """The name of the slot of this kind with a path."""
        return f"{self.prefix}{path}"

    def holds(self, slot: str) -> bool:
        """Whether the slot with a name is of this kind."""
        return slot.startswith(self.prefix)

    def slots(self, arrays: Mapping[str, T]) -> dict[str, T]:
        """What is given by path, by slot."""
        return {self.slot(path): array for path, array in arrays.items()}

    def paths(self, arrays: Mapping[str, T]) -> dict[str, T]:
        """What is given by slot, by path, of the slots of this kind."""
        return {slot.removeprefix(self.prefix): array for slot, array in arrays.items() if self.holds(slot)}


WEIGHT, GATHERED, INPUT, STATE = Kind("weight"), Kind("gathered"), Kind("input"), Kind("state")
SOURCE, VALUE, OUTPUT = Kind("source"), Kind("value"), Kind("output")

_KINDS: dict[str, Kind] = {kind: kind for kind in (WEIGHT, GATHERED, INPUT, STATE, SOURCE, VALUE, OUTPUT)}

TAKES = (WEIGHT, GATHERED, INPUT, STATE, SOURCE, VALUE)
"""Kinds of slots that a call may take arrays from."""
GIVES = (GATHERED, STATE, VALUE, OUTPUT)
"""Kinds of slots that a call may give arrays to."""


def prefixes(*kinds: Kind) -> tuple[str, ...]:
    """How the names of slots of some kinds begin, for `str.startswith`."""
    return tuple(kind.prefix for kind in kinds)


class Slot(NamedTuple):
    """What the name of a slot says."""

    kind: str
    """The Kind itself, where it is one."""
    path: str
    """Empty where the name has no second part."""


@lru_cache(1 << 12)
def slot_of(name: str) -> Slot:
    """The slot with a name; what calls name is named by many."""
    kind, _, path = name.partition("/")
    return Slot(_KINDS.get(kind, kind), path)
