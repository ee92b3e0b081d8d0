"""Factors: the closed list of what decides a digest, in the order in which causes act.

Every value in an index belongs to exactly one factor, and nothing that is not in the index may change a digest. Source
files and wheels other than jax and jaxlib are no factors: the provenance names them as evidence for why a factor
differs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aot import digest
from aot.bundle.index import codec
from aot.bundle.index.records import Index

Kind = Literal["value", "values", "table", "digests"]
"""How a factor is shown: its first field's value, or the distinct values of that field in all records; a digest over
all that belongs to it; the distinct digests that do."""

Digest = Literal["key", "program", "executable", "bundle"]
Leaves = Mapping[str, Any]

_ALL: tuple[Digest, ...] = ("key", "program", "executable", "bundle")
_PROGRAM: tuple[Digest, ...] = ("program", "executable", "bundle")
_EXECUTABLE: tuple[Digest, ...] = ("executable", "bundle")
_BUNDLE: tuple[Digest, ...] = ("bundle",)


@dataclass(frozen=True)
class Factor:
    """One cause that a digest can have."""

    name: str
    kind: Kind
    enters: tuple[Digest, ...]
    """The digests that change with it, all other factors held."""
    fields: tuple[str, ...]
    """Where the index records it, positions left out; of two factors that claim a field, the longer claim holds."""

    def leaves(self, index: Index) -> Leaves:
        """Every value of the index that belongs to it, by place."""
        return _owned(index).get(self.name, {})

    def value(self, index: Index) -> Any:
        """The value of a factor in an index, as plain JSON; None where the index has none of it."""
        if self.kind in ("value", "values"):
            found = list(_distinct(_at(codec.plain(index), self.fields[0].split("."))))
            return found if self.kind == "values" else next(iter(found), None)
        of = self.leaves(index)
        if self.kind == "digests":
            return list(dict.fromkeys(leaf for leaf in of.values() if digest.is_digest(leaf)))
        return digest.digest_of(digest.canonical_json(of)) if of else None


FACTORS = (
    Factor("format", "value", _BUNDLE, ("format",)),
    Factor("jax", "value", _PROGRAM, ("versions.jax",)),
    Factor("jaxlib", "value", _PROGRAM, ("versions.jaxlib",)),
    Factor("compiler", "values", _EXECUTABLE, ("programs.executables.compiler",)),
    Factor("validity", "value", _BUNDLE, ("valid_until",)),
    Factor("origin", "value", _BUNDLE, ("origin",)),
    Factor("model source", "value", _PROGRAM, ("model.factory",)),
    Factor(
        "model config",
        "table",
        _PROGRAM,
        (
            *("model", "generation.vocab_size"),
            *("images.token", "images.unit", "images.extra", "images.channels", "images.rotary"),
        ),
    ),
    Factor("images", "table", _BUNDLE, ("images.before", "images.after", "images.recipe")),
    Factor("weights", "table", _BUNDLE, ("weights",)),
    Factor("tokenizer", "table", _BUNDLE, ("tokenizer",)),
    Factor("precompile config", "table", _ALL, ("combos",)),
    Factor("generation.max_new_tokens", "value", _BUNDLE, ("generation.max_new_tokens",)),
    Factor("generation.num_return_sequences", "value", _BUNDLE, ("generation.num_return_sequences",)),
    Factor("generation.streaming_chunks", "value", _PROGRAM, ("generation.streaming_chunks",)),
    Factor("generation.logits", "value", _PROGRAM, ("generation.logits",)),
    Factor("generation.eos_token_id", "value", _PROGRAM, ("generation.eos_token_id",)),
    Factor("generation.pad_token_id", "value", _BUNDLE, ("generation.pad_token_id",)),
    Factor("generation.bos_token_id", "value", _BUNDLE, ("generation.bos_token_id",)),
    Factor("generation.sampling", "value", _BUNDLE, ("generation.sampling",)),
    Factor(
        "generation.suppressed",
        "table",
        _PROGRAM,
        ("generation.sampling.suppress", "generation.sampling.begin_suppress"),
    ),
    Factor("platforms", "values", ("program", "bundle"), ("programs.platform", "entries.chains.platform")),
    Factor("partition rules", "table", _BUNDLE, ("rules", "partitions", "programs.mesh", "entries.chains.mesh")),
    Factor("custom calls", "value", ("program", "bundle"), ("waivers",)),
    Factor("targets", "values", _EXECUTABLE, ("programs.executables.target", "programs.executables.requires")),
    Factor("tuning", "digests", _EXECUTABLE, ("programs.executables.tuning",)),
    Factor("flags", "values", _EXECUTABLE, ("programs.executables.flags",)),
    Factor("settings", "value", _PROGRAM, ("settings",)),
    Factor(
        "calling contracts",
        "table",
        _PROGRAM,
        (
            *("programs.name", "programs.arguments", "programs.results"),
            *("bindings", "phases", "entries.combo", "entries.phase", "entries.chains.calls"),
            "entries.chains.repeat",
        ),
    ),
    Factor("StableHLO", "digests", _PROGRAM, ("programs.digest", "programs.bytes")),
    Factor(
        "executables",
        "digests",
        _EXECUTABLE,
        (
            *("programs.executables.digest", "programs.executables.bytes"),
            *("programs.executables.memory", "programs.executables.cost"),
        ),
    ),
)

_CLAIMS = {claim: factor for factor in FACTORS for claim in factor.fields}


def named(name: str) -> Factor:
    """The factor of this name."""
    return next(factor for factor in FACTORS if factor.name == name)


def behind(kind: Digest) -> tuple[Factor, ...]:
    """The factors that enter a kind of digest."""
    return tuple(factor for factor in FACTORS if kind in factor.enters)


def owner(field: str) -> Factor | None:
    """The factor that a field of the index belongs to, given with dots and without positions."""
    parts = field.split(".")
    claims = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((_CLAIMS[claim] for claim in claims if claim in _CLAIMS), None)


def changed(a: Index, b: Index) -> tuple[Factor, ...]:
    """The factors whose values differ between two indexes, in order."""
    ours, theirs = _owned(a), _owned(b)
    return tuple(factor for factor in FACTORS if ours.get(factor.name) != theirs.get(factor.name))


def _owned(index: Index) -> dict[str, dict[str, Any]]:
    """The leaves of an index by the factor that they belong to."""
    found: dict[str, dict[str, Any]] = {}
    for field, place, leaf in leaves(codec.plain(index)):
        if factor := owner(field):
            found.setdefault(factor.name, {})[place] = leaf
        else:  # a record that is absent, or a table without rows, whose fields are in factors
            assert not leaf, f"{field} is in no factor"
    return found


def leaves(value: Any, field: str = "", place: str = "") -> Iterator[tuple[str, str, Any]]:
    """(field without positions, place with them, value) of all that a plain index holds, records and maps opened."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from leaves(item, f"{field}.{name}".lstrip("."), f"{place}.{name}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for position, item in enumerate(value):
            yield from leaves(item, field, f"{place}[{position}]")
    else:
        yield field, place, value


def _at(value: Any, path: Sequence[str]) -> Iterator[Any]:
    """What lies at a path without positions, in every record that has it."""
    if path and isinstance(value, list):
        for item in value:
            yield from _at(item, path)
    elif path and isinstance(value, dict) and path[0] in value:
        yield from _at(value[path[0]], path[1:])
    elif not path:
        yield value


def _distinct(values: Iterable[Any]) -> Iterable[Any]:
    return {digest.canonical_json(value): value for value in values}.values()
