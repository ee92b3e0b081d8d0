"""A stored index against one made again, entry by entry."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from aot.audit import diff, explain, factors, words
from aot.audit.refresh import WHOLE, Part
from aot.bundle import statement
from aot.bundle.index import codec
from aot.bundle.index.records import BindingRecord, ChainRecord, ExecutableRecord, Index, ProgramRecord, RepeatRecord

_TABLES = ("programs", "bindings", "entries", "phases", "weights", "tokenizer")
_SHOWN = 80  # characters of a value in a cause

Entry = tuple[str, str]  # key and phase
Call = tuple[str, ProgramRecord, BindingRecord, RepeatRecord | None]
"""Platform and mesh in words, the program, its slots, and which calls of its chain are repeated."""


@dataclass(frozen=True)
class Verdict:
    """Whether one kind of thing in one entry was reproduced. Without key and phase it belongs to the whole bundle."""

    kind: str
    """`program`, `executable`, `weights`, `tokenizer`, `index` or `provenance`."""
    key: str | None
    phase: str | None
    cause: str
    """Empty where it is the same."""

    @property
    def same(self) -> bool:
        """Whether it was reproduced."""
        return not self.cause


def compare_indexes(stored: Index, made: Index, part: Part) -> tuple[Verdict, ...]:
    """A verdict for each kind of each entry in either, then those of the whole bundle."""
    verdicts = [*_entries(stored, made, part)]
    if part.weights:
        verdicts.append(Verdict("weights", None, None, _weights(stored, made)))
    verdicts.append(Verdict("tokenizer", None, None, _tokenizer(stored, made)))
    cause = _index(stored, made, part)
    if part == WHOLE and not cause and all(v.same for v in verdicts) and codec.encode(stored) != codec.encode(made):
        cause = "the same records are in another order"
    return (*verdicts, Verdict("index", None, None, cause))


def provenance(stored: statement.Statement, made: statement.Statement) -> Verdict:
    """The verdict on a statement about the bundle, by the one that a rebuild gives."""
    ours, theirs = _stated(stored), _stated(made)
    odd = [place for place in dict.fromkeys((*ours, *theirs)) if ours.get(place) != theirs.get(place)]
    cause = "" if stored == made else "the same is said in another order"
    if odd:
        a, b = words.parted(ours.get(odd[0]), theirs.get(odd[0]), _SHOWN)
        cause = f"{odd[0].removeprefix('predicate.buildDefinition.')}{_more(odd)}: {a}, now {b}"
    return Verdict("provenance", None, None, cause)


def _stated(said: statement.Statement) -> dict[str, Any]:
    """All that a statement says, by place; what it was built from by name."""
    named = {item["name"]: item for item in statement.dependencies(said)}
    definition = {**said["predicate"]["buildDefinition"], "resolvedDependencies": named}
    whole = {**said, "predicate": {**said["predicate"], "buildDefinition": definition}}
    return {place: leaf for _, place, leaf in factors.leaves(whole)}


def part_of(index: Index, part: Part) -> Index:
    """What of an index is compared: the entries of a key, the executables of a platform."""
    index = index if part.key is None else explain.narrowed(index, "key", part.key)
    return replace(index, programs=tuple(replace(p, executables=_wanted(p, part)) for p in index.programs))


def _wanted(program: ProgramRecord, part: Part) -> tuple[ExecutableRecord, ...]:
    return tuple(e for e in program.executables if part.executables and part.platform in (None, e.built_for.platform))


def _entries(stored: Index, made: Index, part: Part) -> Iterator[Verdict]:
    olds, news = _calls(stored, part), _calls(made, part)
    for entry in dict.fromkeys((*olds, *news)):
        old, new = olds.get(entry), news.get(entry)
        if old is None or new is None:
            lacking = "the bundle does not have this entry" if old is None else "the rebuild does not give this entry"
            yield Verdict("program", *entry, lacking)
            continue
        yield Verdict("program", *entry, _programs(old, new))
        if part.executables and (_executables(old, part) or _executables(new, part)):
            yield Verdict("executable", *entry, _unlike(_executables(old, part), _executables(new, part)))


def _calls(index: Index, part: Part) -> dict[Entry, tuple[Call, ...]]:
    found: dict[Entry, tuple[Call, ...]] = {}
    for entry in index.entries:
        key = index.combos[entry.combo].key
        if part.key in (None, key):
            found[key, entry.phase] = tuple(
                (_place(chain), index.programs[p], index.bindings[b], chain.repeat)
                for chain in entry.chains
                for p, b in chain.calls
            )
    return found


def _place(chain: ChainRecord) -> str:
    return " ".join([chain.platform, *(f"{a}={n}" for a, n in chain.mesh)])


def _programs(old: tuple[Call, ...], new: tuple[Call, ...]) -> str:
    if len(old) != len(new):
        return f"a chain of {len(old)} calls, now of {len(new)}"
    for (platform, a, slots, repeat), (_, b, others, again) in zip(old, new, strict=True):
        if a.digest != b.digest:
            return f"program {a.name} for {platform}: {_short(a.digest)}, now {_short(b.digest)}"
        if replace(a, executables=()) != replace(b, executables=()) or slots != others:
            return f"program {a.name} for {platform}: the same bytes with another calling contract"
        if repeat != again:
            return f"a chain for {platform}: {codec.plain(repeat)} is repeated, now {codec.plain(again)}"
    return ""


def _executables(calls: tuple[Call, ...], part: Part) -> dict[str, ExecutableRecord]:
    """Executables by their program's name and digest and by their target, in words."""
    return {
        f"{program.name} {_short(program.digest)} for {words.shorten(codec.plain(e.target), _SHOWN)}": e
        for _, program, *_ in calls
        for e in _wanted(program, part)
    }


def _unlike(old: Mapping[str, ExecutableRecord], new: Mapping[str, ExecutableRecord]) -> str:
    for name in dict.fromkeys((*old, *new)):
        if name not in new:
            return f"executable of {name}: the rebuild does not give it"
        if name not in old:
            return f"executable of {name}: the bundle does not have it"
        for field in ("digest", *(f.name for f in fields(ExecutableRecord))):
            a, b = getattr(old[name], field), getattr(new[name], field)
            if a != b:
                a, b = words.parted(codec.plain(a), codec.plain(b), _SHOWN)
                return f"executable of {name}: {field} {a}, now {b}"
    return ""


def _weights(stored: Index, made: Index) -> str:
    old, new = stored.weights, made.weights
    if odd := sorted(path for path in {*old.arrays, *new.arrays} if old.arrays.get(path) != new.arrays.get(path)):
        return f"array {odd[0]!r}{_more(odd)}: {_array(old.arrays.get(odd[0]))}, now {_array(new.arrays.get(odd[0]))}"
    for a, b in zip(old.blobs, new.blobs, strict=True):  # as many, by the arrays
        if a != b:
            return f"blob {_short(a.digest)} of {a.bytes} bytes, now {_short(b.digest)} of {b.bytes}"
    return ""


def _tokenizer(stored: Index, made: Index) -> str:
    old, new = stored.tokenizer, made.tokenizer
    odd = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if not odd:
        return ""
    a, b = (_short(held[odd[0]].digest) if odd[0] in held else "absent" for held in (old, new))
    return f"file {odd[0]!r}{_more(odd)}: {a}, now {b}"


def _index(stored: Index, made: Index, part: Part) -> str:
    """The first cause in the fields of the whole bundle; of phases those that the part has."""
    causes = diff.declared(stored, replace(made, **{name: getattr(stored, name) for name in _TABLES}))
    if causes:
        return causes[0].line() + _more([cause.factor for cause in causes])
    phases = made.phases.keys() if part.key else {*stored.phases, *made.phases}
    odd = sorted(name for name in phases if stored.phases.get(name) != made.phases.get(name))
    return f"phases: {odd[0]!r} takes or gives something else" if odd else ""


def _array(record: Any) -> str:
    return "absent" if record is None else f"{record.dtype} {list(record.shape)} in blob {record.blob}"


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _short(name: str) -> str:
    return f"{name[:19]}…"
