"""Rows of records that stay the bytes they were read from until they are used: a large index opens fast."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, overload

from aot.bundle import document
from aot.bundle.document import Fault
from aot.errors import BundleError

Row = TypeVar("Row")
Rule = Callable[[Any], Iterable[str]]
"""Gives for a record what does not hold in it, each as the way to it from there and the problem: `.name: …`."""


class Table(Sequence[Row], Generic[Row]):
    """Records, each read and checked when it is first used; those of a slice at once, which takes less for many.

    Raises BundleError for one that is not sound. Threads may share it: a row that two of them read at once is read
    twice, to equal records.
    """

    def __init__(self, packed: Sequence[bytes], decode: Callable[[list[Any]], list[Row]]) -> None:
        self._packed, self._decode = packed, decode
        self._read: dict[int, Row] = {}
        self._place = "table"
        self._rule: Rule = lambda record: ()

    def guard(self, place: str, rule: Rule) -> None:
        """Sets where the table lies and what must hold of each of its rows, before any of them is used."""
        self._place, self._rule = place, rule

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, position: int) -> Row: ...

    @overload
    def __getitem__(self, position: slice) -> tuple[Row, ...]: ...

    def __getitem__(self, position: int | slice) -> Row | tuple[Row, ...]:
        if isinstance(position, int):
            place = range(len(self))[position]
            if place not in self._read:
                self._load([place])
            return self._read[place]
        places = range(len(self))[position]
        self._load([place for place in places if place not in self._read])
        return tuple(map(self._read.__getitem__, places))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self[:] == tuple(other)

    def _load(self, places: list[int]) -> None:
        for place, record in zip(places, self._decoded(places), strict=True):
            for fault in self._rule(record):
                raise BundleError(f"{self._place}[{place}]{fault}; rebuild it")
            self._read[place] = record

    def _decoded(self, places: list[int]) -> list[Row]:
        column: list[Any] = []
        try:
            for place in places:
                column.append(document.unpack(self._packed[place]))
        except Fault as fault:
            raise document.refusal(f"{self._place}[{places[len(column)]}]", fault) from fault
        try:
            return self._decode(column)
        except Fault as fault:
            raise document.refusal(f"{self._place}[{places[fault.row]}]{fault.path}", fault) from fault
        except (ValueError, RecursionError) as error:
            raise document.refusal(self._place, error) from error
