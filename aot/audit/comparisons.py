"""What each factor says of a difference between two indexes: how it is compared, and what follows from another."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aot import digest
from aot.audit import factors, words
from aot.audit.factors import Factor
from aot.audit.sides import Side
from aot.bundle.index import codec
from aot.bundle.index.records import ComboRecord, Index

_SHOWN = 5  # names in a detail; the rest is counted
_LONGEST = 80  # characters of a value on the one line of a cause


@dataclass(frozen=True)
class Cause:
    """A factor that differs: what it is on either side, as plain JSON, and what more there is to say."""

    factor: str
    a: Any
    b: Any
    detail: str = ""

    def line(self) -> str:
        """The cause on one line, the values cut where they are long."""
        a, b = words.parted(self.a, self.b, _LONGEST)
        return ": ".join(filter(None, (self.factor, self.detail, f"{a}, now {b}")))


@dataclass(frozen=True)
class Pair:
    """Two sides, and the factors that differ between them."""

    a: Index
    b: Index
    sides: tuple[Side, Side]
    changed: frozenset[str]

    @classmethod
    def of(cls, a: Side, b: Side) -> "Pair":
        """The pair of two sides."""
        return cls(a.index, b.index, (a, b), frozenset(f.name for f in factors.changed(a.index, b.index)))


def compared(pair: Pair, without: Iterable[str] = ()) -> list[Cause]:
    """What the factors that differ say by themselves, in order, without some of them."""
    asked = (factor for factor in factors.FACTORS if factor.name in pair.changed.difference(without))
    return [cause for factor in asked for cause in _comparison(factor)(factor, pair)]


def _value(factor: Factor, pair: Pair) -> Iterator[Cause]:
    a, b = factor.value(pair.a), factor.value(pair.b)
    if a != b:
        yield Cause(factor.name, a, b)


def _nothing(factor: Factor, pair: Pair) -> Iterator[Cause]:
    """No cause, where a factor is compared program by program."""
    yield from ()


def _fields(factor: Factor, pair: Pair) -> Iterator[Cause]:
    a, b = factor.leaves(pair.a), factor.leaves(pair.b)
    names = [name for name in dict.fromkeys((*a, *b)) if a.get(name) != b.get(name)]
    if len(names) > 1 and "generation.vocab_size" in names:  # the configuration's, once more
        names.remove("generation.vocab_size")
    yield among(names, factor.name, a, b, listed(names))


def _generation(factor: Factor, pair: Pair) -> Iterator[Cause]:
    """A model that generates and one that does not differ in more than their options."""
    if pair.a.generation is not None and pair.b.generation is not None:
        yield from _value(factor, pair)


def _format(factor: Factor, pair: Pair) -> Iterator[Cause]:
    """No cause: an older format is another one because of what only a newer one can say."""
    if not {"generation.sampling", "generation.suppressed"} & pair.changed:
        yield from _value(factor, pair)


def _validity(factor: Factor, pair: Pair) -> Iterator[Cause]:
    if "jax" not in pair.changed:  # whose window it is
        yield from _value(factor, pair)


def _compiler(factor: Factor, pair: Pair) -> Iterator[Cause]:
    """The compiler's versions, unless they are those of the jaxlib that lowered, which is compared by itself."""
    found = [(factor.value(index), [{"jaxlib": index.versions["jaxlib"]}]) for index in (pair.a, pair.b)]
    if all(compiler for compiler, _ in found) and any(compiler != lowered for compiler, lowered in found):
        yield from _value(factor, pair)


def _weights(factor: Factor, pair: Pair) -> Iterator[Cause]:
    """Names the weights; those of another shape or dtype follow from a model that differs."""
    a, b = pair.a.weights.arrays, pair.b.weights.arrays
    declared = [p for p in dict.fromkeys((*a, *b)) if _kind(a.get(p)) != _kind(b.get(p))]
    ours, theirs = ({p: side.weight(p) for p in a if p in b and p not in declared} for side in pair.sides)
    valued = [path for path in ours if ours[path] != theirs[path]]
    follows = {"model source", "model config"} & pair.changed
    if declared and not follows:
        kinds = [{path: _kind(record) for path, record in side.items()} for side in (a, b)]
        yield among(declared, factor.name, kinds[0], kinds[1], f"declared otherwise: {listed(declared)}")
    if valued and not (follows and "factory" in pair.a.model):  # a factory makes its own weights
        detail = f"{len(valued)} of {len(b)} weights differ: {listed(valued)}"
        yield among(valued, factor.name, ours, theirs, detail)


def _kind(record: Any) -> Any:
    return None if record is None else f"{record.dtype} {list(record.shape)}"


def _tokenizer(factor: Factor, pair: Pair) -> Iterator[Cause]:
    a, b = ({name: blob.digest for name, blob in index.tokenizer.items()} for index in (pair.a, pair.b))
    names = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    yield among(names, factor.name, a, b, listed(names))


def _precompile(factor: Factor, pair: Pair) -> Iterator[Cause]:
    a, b = ({combo.key: combo for combo in index.combos} for index in (pair.a, pair.b))
    gone, new = [a[key] for key in a if key not in b], [b[key] for key in b if key not in a]
    if "generation.max_new_tokens" in pair.changed and _by_default(gone, pair.a) and _by_default(new, pair.b):
        bare = [sorted(map(_without_length, combos)) for combos in (gone, new)]
        if bare[0] == bare[1]:
            return
    if gone or new:
        detail = f"{len(gone)} combos are only in the first, {len(new)} only in the second"
        dimensions = [[dict(combo.dimensions) for combo in combos] for combos in (gone, new)]
        yield Cause(factor.name, dimensions[0], dimensions[1], detail)
    elif list(a) != list(b):
        yield Cause(factor.name, list(a), list(b), "the same combos in another order")


def _without_length(combo: ComboRecord) -> bytes:
    return digest.canonical_json({**combo.dimensions, "max_length": None})


def _by_default(combos: list[ComboRecord], index: Index) -> bool:
    """Whether their max_length is what it is when none is given."""
    new = index.generation.max_new_tokens if index.generation else 0
    return all((c.dimensions["prefill_length"] or 0) + new == c.dimensions["max_length"] for c in combos)


def _partition(factor: Factor, pair: Pair) -> Iterator[Cause]:
    for rules in (
        [codec.plain(i.rules) for i in (pair.a, pair.b)],
        [codec.plain(i.partitions) for i in (pair.a, pair.b)],
    ):
        if rules[0] != rules[1]:
            yield Cause(factor.name, rules[0], rules[1])
            return


def _targets(factor: Factor, pair: Pair) -> Iterator[Cause]:
    found = list(_value(factor, pair))
    yield from found or _per_target(factor, pair, "requires")


def _tuning(factor: Factor, pair: Pair) -> Iterator[Cause]:
    yield from _per_target(factor, pair, "tuning")


def _flags(factor: Factor, pair: Pair) -> Iterator[Cause]:
    """Flags of executables, without those that replay a tuning, which is compared by itself."""
    tuned = {cause.detail.removeprefix("tuning of ") for cause in _per_target(factor, pair, "tuning")}
    for cause in _per_target(factor, pair, "flags"):
        if cause.detail.removeprefix("flags of ") not in tuned:
            yield cause


def _per_target(factor: Factor, pair: Pair, field: str) -> Iterator[Cause]:
    """What executables for the same target have of a field."""
    a, b = (
        {digest.canonical_json(e.target): e for program in index.programs for e in program.executables}
        for index in (pair.a, pair.b)
    )
    for target in (target for target in a if target in b):
        ours, theirs = (codec.plain(getattr(side[target], field)) for side in (a, b))
        if ours != theirs:
            yield Cause(factor.name, ours, theirs, f"{field} of {dict(a[target].target)}")


_Compare = Callable[[Factor, Pair], Iterator[Cause]]
_COMPARE: Mapping[str, _Compare] = {
    **{factor.name: _generation for factor in factors.FACTORS if factor.name.startswith("generation.")},
    "format": _format,
    "compiler": _compiler,
    "validity": _validity,
    "weights": _weights,
    "tokenizer": _tokenizer,
    "precompile config": _precompile,
    "generation.sampling": _fields,
    "generation.suppressed": _fields,
    "partition rules": _partition,
    "targets": _targets,
    "tuning": _tuning,
    "flags": _flags,
    "settings": _fields,
    "calling contracts": _nothing,
    "StableHLO": _nothing,
    "executables": _nothing,
}


def _comparison(factor: Factor) -> _Compare:
    return _COMPARE.get(factor.name, _fields if factor.kind == "table" else _value)


def among(names: list[str], factor: str, a: Mapping[str, Any], b: Mapping[str, Any], detail: str) -> Cause:
    """A cause that shows some names of two mappings."""
    ours, theirs = ({name: side[name] for name in names if name in side} for side in (a, b))
    return Cause(factor, ours, theirs, detail)


def listed(names: list[str]) -> str:
    """Some names in words, and the number of the others."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
