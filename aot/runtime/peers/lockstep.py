"""The steps of a request that several processes serve together: each is taken by all of them, or by none."""

from collections.abc import Iterator
from typing import TypeVar

from aot.runtime.peers.processes import Group

T = TypeVar("T")


class Lockstep(Iterator[T]):
    """Steps, each of which begins when all processes have come to it. Who leaves them early tells the others."""

    def __init__(self, steps: Iterator[T], group: Group) -> None:
        self._steps, self._group = steps, group
        self._request, self._since = group.round, group.partings
        self._taken, self._open = 0, True

    def __next__(self) -> T:
        if not self._open:
            raise StopIteration
        step, self._open = {"step": f"{self._taken + 1} of request {self._request}"}, False
        try:
            made = self._group.turn(lambda _: next(self._steps, None), step, self._end, self._since)
        except BaseException:
            self._steps = iter(())  # lets go of arrays, which must not be left when the interpreter ends
            raise
        if made is None:
            raise StopIteration
        self._taken, self._open = self._taken + 1, True
        return made

    def __del__(self) -> None:
        if self._open:
            self._open = False
            self._group.leave(self._end, self._since)

    @property
    def _end(self) -> str:
        return f"of request {self._request} after {self._taken} steps"
