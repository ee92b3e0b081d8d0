"""The programs of two sides, matched by the place at which they are called, and what differs within a match."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from aot.audit import stablehlo
from aot.audit.sides import UNKNOWN, Side
from aot.bundle.index import codec
from aot.bundle.index.records import ChainRecord, ExecutableRecord, Index, ProgramRecord, RepeatRecord

Place = tuple[str, str, str, tuple[tuple[str, int], ...]]
"""Key, phase, platform, mesh."""
Difference = tuple[Any, Any, str]
"""A value on the one side, on the other, and the place where they differ."""


class Matched:
    """What two sides both call at the same place."""

    def __init__(self, a: Side, b: Side) -> None:
        self._a, self._b = a, b
        self._chains = _matched(_chains(a.index), _chains(b.index))
        self._calls = [
            (place, (a.index, a.index.programs[p], i), (b.index, b.index.programs[q], j))
            for place, ours, theirs in self._chains
            for (p, i), (q, j) in zip(ours.calls, theirs.calls, strict=False)
        ]
        pairs = {(x.digest, y.digest): (x, y) for _, (_, x, _), (_, y, _) in self._calls}
        self.programs: list[tuple[ProgramRecord, ProgramRecord]] = list(pairs.values())
        """Each distinct pair of programs once."""

    def differing(self) -> list[tuple[ProgramRecord, ProgramRecord]]:
        """The pairs whose digests differ."""
        return [(x, y) for x, y in self.programs if x.digest != y.digest]

    def contracts(self, other_combos: bool) -> Iterator[Difference]:
        """Where contracts, the slots of a call, the calls of a chain or the axes of a phase differ.

        With other combos on the two sides, a key may have other phases too, as forks lead from one combo to another.
        """
        for x, y in self.programs:
            if found := _contract(x, y):
                yield *found, f"program {x.name} for {x.platform}"
        yield from self._phases(other_combos)
        seen = set()
        for place, (a, x, i), (b, y, j) in self._calls:
            ours, theirs = a.bindings[i], b.bindings[j]
            if ours != theirs and not _contract(x, y) and (i, j) not in seen:
                seen.add((i, j))
                yield codec.plain(ours), codec.plain(theirs), f"slots of program {x.name} in {_spelled(place)}"
        for place, chain, other in self._chains:
            if len(chain.calls) != len(other.calls):
                yield len(chain.calls), len(other.calls), f"number of calls in {_spelled(place)}"
            elif (turns := self._repeated(chain)) != (others := self._repeated(other)):
                yield codec.plain(turns), codec.plain(others), f"repeated calls in {_spelled(place)}"

    def texts(self) -> Iterator[Difference]:
        """The first differing operation of each pair of programs with one contract and two digests."""
        with stablehlo.Printer() as printer:
            for x, y in self.differing():
                if not _contract(x, y):
                    where = f"program {x.name} for {x.platform}, used by {self._users(x, y)}"
                    yield self._parting(printer, x, y, where)

    def executables(self) -> Iterator[Difference]:
        """Where the same program, target, flags, compiler and tuning gave two executables."""
        for x, y in self.programs:
            if x.digest == y.digest:
                yield from (
                    (e.digest, f.digest, f"program {x.name} for {dict(e.target)}: compiled otherwise from the same")
                    for e in x.executables
                    for f in y.executables
                    if _alike(e, f) and e.digest != f.digest and UNKNOWN not in (e.digest, f.digest)
                )

    def _parting(self, printer: stablehlo.Printer, x: ProgramRecord, y: ProgramRecord, where: str) -> Difference:
        try:
            a, b = printer.lines(self._a.program(x)), printer.lines(self._b.program(y))
        except ValueError as error:
            return x.digest, y.digest, f"{where}: {error}"
        if found := stablehlo.first_difference(a, b):
            return *found, f"first differing operation of {where}"
        return x.digest, y.digest, f"other bytes of the same text: {where}"

    def _phases(self, other_combos: bool) -> Iterator[Difference]:
        a, b = self._a.index.phases, self._b.index.phases
        for name in dict.fromkeys((*a, *b)):
            if (name in a) != (name in b) and not other_combos:
                yield name in a, name in b, f"phase {name} is on one side only"
            elif name in a and name in b and a[name] != b[name]:
                yield codec.plain(a[name]), codec.plain(b[name]), f"inputs and outputs of phase {name}"

    def _repeated(self, chain: ChainRecord) -> RepeatRecord | None:
        """Which calls are made in turns; how many turns there are at most is an option of generation, where it is."""
        if chain.repeat is None or self._a.index.generation is None:
            return chain.repeat
        return replace(chain.repeat, most=1)

    def _users(self, x: ProgramRecord, y: ProgramRecord) -> str:
        calls = [place for place, (_, p, _), (_, q, _) in self._calls if (p.digest, q.digest) == (x.digest, y.digest)]
        entries = list(dict.fromkeys(_spelled(place) for place in calls))
        return entries[0] + (f" and {len(entries) - 1} more" if len(entries) > 1 else "")


def _chains(index: Index) -> dict[Place, ChainRecord]:
    return {
        (index.combos[entry.combo].key, entry.phase, chain.platform, chain.mesh): chain
        for entry in index.entries
        for chain in entry.chains
    }


def _matched(a: dict[Place, ChainRecord], b: dict[Place, ChainRecord]) -> list[tuple[Place, ChainRecord, ChainRecord]]:
    return [(place, chain, b[place]) for place, chain in a.items() if place in b]


def _contract(x: ProgramRecord, y: ProgramRecord) -> tuple[Any, Any] | None:
    names = [n for n in ("name", "arguments", "results") if getattr(x, n) != getattr(y, n)]
    if not names:
        return None
    ours, theirs = ({name: codec.plain(getattr(program, name)) for name in names} for program in (x, y))
    return ours, theirs


def _alike(e: ExecutableRecord, f: ExecutableRecord) -> bool:
    return (e.target, e.flags, e.compiler, e.tuning) == (f.target, f.flags, f.compiler, f.tuning)


def _spelled(place: Place) -> str:
    return f"{place[1]} of {place[0][:12]}"
