"""What stands behind a digest: the factors of a bundle, of one key, one program or one executable."""

from dataclasses import dataclass, replace
from typing import Any

from aot import closest
from aot.audit import factors
from aot.audit.factors import Digest
from aot.bundle.index.records import ChainRecord, EntryRecord, Index, ProgramRecord
from aot.errors import InputError


@dataclass(frozen=True)
class Subject:
    """What is explained, and the part of the index that bears on it."""

    kind: Digest
    name: str
    index: Index

    def rows(self) -> list[dict[str, Any]]:
        """`name` and `value` of each factor, in order; behind a program or an executable only those that enter it."""
        whole = self.kind in ("bundle", "key")
        behind = factors.FACTORS if whole else factors.behind(self.kind)
        return [{"name": factor.name, "value": factor.value(self.index)} for factor in behind]


def bundle(index: Index, digest: str) -> Subject:
    """All of a bundle."""
    return Subject("bundle", digest, index)


def subject(index: Index, name: str) -> Subject:
    """The key, program or executable of this name, which may be the beginning of one.

    Raises InputError unless it is exactly one.
    """
    hexadecimal = name.removeprefix("sha256:")
    matching = [found for found in _subjects(index) if found[1].removeprefix("sha256:").startswith(hexadecimal)]
    if len(hexadecimal) < closest.SHORTEST or not matching:
        raise InputError(
            f"{name!r}: is no key, program or executable of this bundle, nor {closest.SHORTEST} or more digits of one; "
            "`aot inspect --json` lists them"
        )
    if len(matching) > 1:
        raise InputError(f"{name!r}: {len(matching)} keys and digests begin so; give more digits")
    kind, full = matching[0]
    return Subject(kind, full, narrowed(index, kind, full))


def _subjects(index: Index) -> list[tuple[Digest, str]]:
    found: list[tuple[Digest, str]] = [("key", combo.key) for combo in index.combos]
    for program in index.programs:
        found.append(("program", program.digest))
        found += [("executable", executable.digest) for executable in program.executables]
    return list(dict.fromkeys(found))


def narrowed(index: Index, kind: Digest, name: str) -> Index:
    """The combos, entries, calls and programs that bear on a subject, at positions of their own."""
    programs = {i: _part(program, kind, name) for i, program in enumerate(index.programs)}
    wanted = [i for i, program in programs.items() if program is not None]
    entries = [_calling(e, wanted) for e in index.entries if kind != "key" or index.combos[e.combo].key == name]
    entries = [entry for entry in entries if entry.chains]
    calls = [call for entry in entries for chain in entry.chains for call in chain.calls]
    combos, used, bindings = (sorted(set(of)) for of in ((e.combo for e in entries), *_columns(calls)))
    moved = tuple(_moved(entry, combos, used, bindings) for entry in entries)
    return replace(
        index,
        combos=tuple(index.combos[i] for i in combos),
        phases={name: record for name, record in index.phases.items() if name in {e.phase for e in entries}},
        programs=tuple(program for i in used if (program := programs[i]) is not None),
        bindings=tuple(index.bindings[i] for i in bindings),
        entries=moved,
    )


def _part(program: ProgramRecord, kind: Digest, name: str) -> ProgramRecord | None:
    """A program as far as it bears on a subject; None if it does not."""
    if kind == "program":
        return program if program.digest == name else None
    if kind == "executable":
        mine = tuple(executable for executable in program.executables if executable.digest == name)
        return replace(program, executables=mine) if mine else None
    return program


def _columns(calls: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [program for program, _ in calls], [binding for _, binding in calls]


def _calling(entry: EntryRecord, programs: list[int]) -> EntryRecord:
    chains = (_narrowed(chain, [call for call in chain.calls if call[0] in programs]) for chain in entry.chains)
    return replace(entry, chains=tuple(chain for chain in chains if chain.calls))


def _narrowed(chain: ChainRecord, calls: list[tuple[int, int]]) -> ChainRecord:
    """A chain of some of its calls; which of them are repeated is known where all are there."""
    return replace(chain, calls=tuple(calls), repeat=chain.repeat if len(calls) == len(chain.calls) else None)


def _moved(entry: EntryRecord, combos: list[int], programs: list[int], bindings: list[int]) -> EntryRecord:
    def chain(record: ChainRecord) -> ChainRecord:
        return replace(record, calls=tuple((programs.index(p), bindings.index(b)) for p, b in record.calls))

    return replace(entry, combo=combos.index(entry.combo), chains=tuple(map(chain, entry.chains)))
