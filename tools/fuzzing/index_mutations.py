"""Mutations of the index: changed in meaning, encoded canonically and sealed anew, or spoiled as bytes."""

import copy
import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Any

from aot import digest
from aot.precompile import SCHEMA
from fuzzing import changes, spoiling, wire
from fuzzing.changes import Place
from fuzzing.draft import Draft

Mutation = Callable[[random.Random, Draft], str]

SECTIONS = {
    "header": "format valid_until origin versions settings rules partitions waivers model",
    "generation": "generation",
    "images": "images",
    "combos": "combos",
    "phases": "phases",
    "programs": " ".join(
        f"programs.*.{name}" for name in ("digest", "bytes", "name", "platform", "mesh", "executables")
    ),
    "executables": "programs.*.executables",
    "contracts": "programs.*.arguments programs.*.results",
    "bindings": "bindings",
    "entries": "entries",
    "weights": "weights",
    "tokenizer": "tokenizer",
}
"""Each with the beginnings of the places in it."""

_COMBO = ("entries", "*", "combo")
_CALL = ("entries", "*", "chains", "*", "calls", "*", "*")
_DRAWN = ("images.recipe", "generation.eos_token_id", "images.token", "images.before", "images.after")


def section(name: str) -> Mutation:
    """Changes one thing in a section of the index, in one mutant of five another one as well."""
    beginnings = tuple(tuple(each.split(".")) for each in SECTIONS[name].split())

    def found(draft: Draft) -> Iterator[Place]:
        for within in beginnings:
            yield from changes.places(draft.index, within)

    def mutate(rng: random.Random, draft: Draft) -> str:
        said = [changes.change(rng, draft.index, found(draft)) for _ in range(rng.choice((1, 1, 1, 1, 2)))]
        draft.free = any(each.startswith(_DRAWN) for each in said)
        return "; ".join(said)

    return mutate


def top(rng: random.Random, draft: Draft) -> str:
    """A whole field of the index."""
    return changes.change(rng, draft.index, [Place(draft.index, name, (name,), (name,)) for name in draft.index])


def dimensions(rng: random.Random, draft: Draft) -> str:
    """Dimensions of a combo, under the key that they hash to."""
    combo = rng.choice(draft.index["combos"])
    said = changes.change(rng, combo["dimensions"])
    try:
        content = digest.canonical_json({"schema": SCHEMA, **combo["dimensions"]})
    except (TypeError, ValueError):
        return f"dimensions.{said}"
    old, combo["key"] = combo["key"], hashlib.sha256(content).hexdigest()
    for kind, data in draft.attachments.items():
        draft.attachments[kind] = data.replace(old.encode(), combo["key"].encode())
    return f"dimensions.{said}, with its key"


def size(rng: random.Random, draft: Draft) -> str:
    """A number that many shapes have, wherever it is one: all agree, but not with what was compiled."""
    sized = [place for place in changes.places(draft.index) if {"shape", "dimensions"} & set(place.pattern)]
    old = rng.choice(sorted({place.value for place in sized if type(place.value) is int}))
    new = rng.choice((old + 1, old * 2, max(1, old // 2), 1, 0, 2**20, 2**40))
    for place in sized:
        if type(place.value) is int and place.value == old:
            place.put(new)
    return f"every {old} in shapes and dimensions: {old} → {new}"


def array(rng: random.Random, draft: Draft) -> str:
    """The same change for all arrays that are alike: of contracts and weights."""
    field = rng.choice(("dtype", "shape", "sharding", "donated"))
    found = [place for place in changes.places(draft.index) if place.pattern[-1] == field]
    before = copy.deepcopy(rng.choice(found).value)
    made = {"x": copy.deepcopy(before)}
    said = changes.change(rng, made)
    after = made.get("x")
    for place in found:
        if place.value == before:
            place.put(copy.deepcopy(after))
    return f"every {field} {changes.shown(before)}: {said}"


def slot(rng: random.Random, draft: Draft) -> str:
    """A slot under another name in all bindings, or in those that take it, or that give it."""
    sides = rng.choice((("takes", "gives"), ("takes",), ("gives",)))
    names = sorted({name for binding in draft.index["bindings"] for side in sides for name in binding[side]})
    old, source = rng.choice(names), rng.choice(("weight", "gathered", "input", "state", "source", "value", "output"))
    new = rng.choice((f"{old}x", f"{source}/{old.partition('/')[2]}", rng.choice(names), source, f"{source}/"))
    for binding in draft.index["bindings"]:
        for side in sides:
            binding[side] = [new if name == old else name for name in binding[side]]
    return f"slot {old!r} in all {' and '.join(sides)}: {new!r}"


def positions(rng: random.Random, draft: Draft) -> str:
    """Positions in tables: of combos, programs, bindings and blobs."""
    alike = list(changes.places(draft.index, rng.choice((_COMBO, _CALL, ("weights", "arrays", "*", "blob")))))
    values = sorted({place.value for place in alike})
    return rng.choice(alike).put(rng.choice((*values, values[-1] + 1, 2**31, -1)))


def calls(rng: random.Random, draft: Draft) -> str:
    """Calls of a chain: one fewer, one twice, two in another order, those of another entry."""
    chains = [(i, chain) for i, entry in enumerate(draft.index["entries"]) for chain in entry["chains"]]
    (i, chain), (j, other) = rng.choice(chains), rng.choice(chains)
    found, at = chain["calls"], rng.randrange(len(chain["calls"]))
    made = {
        "one fewer": found[:at] + found[at + 1 :],
        "one twice": found[: at + 1] + found[at:],
        "in another order": rng.sample(found, len(found)),
        f"those of entries.{j}": other["calls"],
        "the programs of others": [[q, b] for (_, b), (q, _) in zip(found, rng.sample(found, len(found)), strict=True)],
        "too many": found * 2000,
    }
    how = rng.choice(list(made))
    chain["calls"] = copy.deepcopy(made[how])
    return f"entries.{i}, calls: {how}"


def row(rng: random.Random, draft: Draft) -> str:
    """A row of a table taken out or put in twice, and all positions in the table moved to match."""
    table = rng.choice(("combos", "programs", "bindings"))
    rows, step = draft.index[table], rng.choice((-1, 1))
    at = rng.randrange(len(rows))
    draft.index[table] = rows[:at] + rows[at + 1 :] if step < 0 else [*rows[:at], copy.deepcopy(rows[at]), *rows[at:]]
    column = {"programs": 0, "bindings": 1, "combos": "combo"}[table]
    for place in changes.places(draft.index, _COMBO if table == "combos" else _CALL):
        if place.name == column and place.value > at:
            place.put(place.value + step)
    return f"{table}.{at}: {'out' if step < 0 else 'twice'}, positions moved"


def blob(rng: random.Random, draft: Draft) -> str:
    """A record of a blob that names another blob of the bundle, in its size or not."""
    everything = [layer.digest for layer in wire.layers(draft.index)]
    everything += [draft.source.bundle.digest, draft.source.bundle.manifest_digest, f"sha256:{'0' * 64}"]
    records = [
        place for place in changes.places(draft.index) if isinstance(place.value, dict) and "digest" in place.value
    ]
    groups = sorted({place.pattern for place in records})
    pattern = rng.choice(groups)
    place = rng.choice([each for each in records if each.pattern == pattern])
    name = rng.choice(everything)
    place.value["digest"] = name
    if rng.random() < 0.8 and name in everything[:-1]:
        place.value["bytes"] = len(draft.source.blob(name))
    return f"{place}: names {name[:19]}…"


def mesh(rng: random.Random, draft: Draft) -> str:
    """The mesh of a bundle, wherever it is named."""
    found = [
        place for place in changes.places(draft.index) if place.pattern[-1] == "mesh" and isinstance(place.value, list)
    ]
    sizes: list[Any] = [0, 1, 2, 3, 64, 2**16, 2**31, 2**63, -1, "2", None]
    pair: Any = rng.choice((["model", rng.choice(sizes)], ["x", rng.choice(sizes)], ["", 1], ["data", 1], "model", 2))
    new = rng.choice(([pair], [pair, pair], [["data", 1], pair], [["data", 2], ["model", 2]], [], [["model", 1]] * 500))
    chosen = found if rng.random() < 0.7 else [rng.choice(found)]
    for place in chosen:
        place.put(copy.deepcopy(new))
    return f"mesh of {len(chosen)} of {len(found)}: {changes.shown(new)}"


def platform(rng: random.Random, draft: Draft) -> str:
    """The platform of all programs and chains."""
    name = rng.choice(("tpu", "cuda", "cpux", "", "CPU"))
    for place in changes.places(draft.index):
        if place.pattern[-1] == "platform":
            place.put(name)
    return f"every platform: {name!r}"


def target(rng: random.Random, draft: Draft) -> str:
    """What all executables say of their target, of what they need and of what made them."""
    field = rng.choice(("target", "requires", "compiler", "memory", "cost", "flags"))
    found = [executable for program in draft.index["programs"] for executable in program["executables"]]
    made = copy.deepcopy(found[0])
    said = changes.change(rng, made, changes.places(made, (field,)))
    kept = {name: made[name] for name in made if name == field or name not in found[0]}
    for executable in found:
        del executable[field]
        executable |= copy.deepcopy(kept)
    return f"every executable: {said}"


_DAYS = (
    *("", "2026-1-1", "2026-02-30", "0001-01-01", "9999-12-31", "2026-06-30", "20260630", "2026-W01-1"),
    *("2026-06-30T00", " 2026-06-30", "٢٠٢٦-٠٦-٣٠", "-2026-06-30"),
)


def day(rng: random.Random, draft: Draft) -> str:
    """The last day."""
    return changes.Place(draft.index, "valid_until", (), ("valid_until",)).put(rng.choice(_DAYS))


def order(rng: random.Random, draft: Draft) -> str:
    """Names in another order than there is one of."""
    mappings = [
        place for place in changes.places(draft.index) if isinstance(place.value, dict) and len(place.value) > 1
    ]
    place = rng.choice(mappings)
    names = rng.sample(list(place.value), len(place.value))
    place.holder[place.name] = {name: place.value[name] for name in names}
    draft.encode = lambda index: wire.closed(index, ordered=False)
    return f"{place}: in the order {changes.shown(names)}"


def flipped(rng: random.Random, draft: Draft) -> str:
    """Bits of the index's bytes, sealed anew."""
    return _spoiled(rng, draft, spoiling.bits)


def cut(rng: random.Random, draft: Draft) -> str:
    """The index's bytes with some taken out or put in, sealed anew."""
    return _spoiled(rng, draft, spoiling.msgpack_pieces)


def _spoiled(rng: random.Random, draft: Draft, spoil: spoiling.Spoil) -> str:
    data, said = spoil(rng, wire.closed(draft.index))
    draft.encode = lambda _: data
    return f"index as bytes: {said}"


_WHOLE = (
    *(top, dimensions, size, array, slot, positions, calls, row, blob, mesh, platform, target, day),
    *(order, flipped, cut),
)

FAMILIES: dict[str, Mutation] = {
    **{f"index {name}": section(name) for name in SECTIONS},
    **{f"index {mutate.__name__}": mutate for mutate in _WHOLE},
}
