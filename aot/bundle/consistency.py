"""What holds between the records of an index beyond their types: positions, digests, slots, names."""

import datetime
import re
from collections.abc import Iterator

from aot import digest
from aot.bundle.records import ArgumentRecord, ChainRecord, EntryRecord, Index, stored
from aot.chain import GIVES, TAKES

_KEY = re.compile(r"[0-9a-f]{64}")
_TAKES = set(TAKES)
_GIVES = set(GIVES)


def check(index: Index) -> None:
    """Raises ValueError with the path of the first fault and what is wrong there."""
    for rule in (_valid_until, _blobs, _combos, _programs, _bindings, _entries, _weights, _tokenizer):
        for fault in rule(index):
            raise ValueError(fault)


def _valid_until(index: Index) -> Iterator[str]:
    try:
        spelled = datetime.date.fromisoformat(index.valid_until).isoformat()
    except ValueError:
        spelled = ""
    if spelled != index.valid_until:
        yield f"valid_until: must be a day as YYYY-MM-DD, got {index.valid_until!r}"


def _blobs(index: Index) -> Iterator[str]:
    sizes: dict[str, int] = {}
    for path, _, name, size in stored(index):
        if not digest.is_digest(name):
            yield f"{path}.digest: must be 'sha256:' and 64 lower-case hex digits, got {name!r}"
        if sizes.setdefault(name, size) != size:
            yield f"{path}.bytes: the same blob has {sizes[name]} bytes elsewhere, here {size}"


def _combos(index: Index) -> Iterator[str]:
    seen = set()
    for i, combo in enumerate(index.combos):
        if not _KEY.fullmatch(combo.key):
            yield f"combos[{i}].key: must be 64 lower-case hex digits, got {combo.key!r}"
        if combo.key in seen:
            yield f"combos[{i}].key: occurs twice: {combo.key!r}"
        seen.add(combo.key)


def _programs(index: Index) -> Iterator[str]:
    for i, program in enumerate(index.programs):
        for kind, arrays in (("arguments", program.arguments), ("results", program.results)):
            yield from _arrays(f"programs[{i}].{kind}", arrays)


def _arrays(path: str, arrays: tuple[ArgumentRecord, ...]) -> Iterator[str]:
    if len({array.name for array in arrays}) < len(arrays):
        yield f"{path}: a name occurs twice"
    if wrong := [i for i, array in enumerate(arrays) if len(array.sharding) != len(array.shape)]:
        array = arrays[wrong[0]]
        yield f"{path}[{wrong[0]}].sharding: has {len(array.sharding)} axes, the shape {len(array.shape)}"


def _bindings(index: Index) -> Iterator[str]:
    weights = {f"weight/{path}" for path in index.weights.arrays}
    for i, binding in enumerate(index.bindings):
        for kind, slots, allowed in (("takes", binding.takes, _TAKES), ("gives", binding.gives, _GIVES)):
            for j, slot in enumerate(slots):
                source, slash, name = slot.partition("/")
                if source not in allowed or not (slash and name):
                    yield f"bindings[{i}].{kind}[{j}]: must be {_kinds(allowed)}, '/' and a name, got {slot!r}"
                if source == "weight" and slot not in weights:
                    yield f"bindings[{i}].{kind}[{j}]: no weight {name!r} in weights.arrays"


def _kinds(allowed: set[str]) -> str:
    return " or ".join(sorted(allowed))


def _entries(index: Index) -> Iterator[str]:
    seen = set()
    sound: dict[object, set[tuple[int, int]]] = {}
    for i, entry in enumerate(index.entries):
        if (entry.combo, entry.phase) in seen:
            yield f"entries[{i}]: combo {entry.combo} has two entries for the phase {entry.phase!r}"
        seen.add((entry.combo, entry.phase))
        yield from _entry(index, f"entries[{i}]", entry)
        for j, chain in enumerate(entry.chains):
            place = (chain.platform, *chain.mesh)
            # Entries share their calls, so most of a big index is known already.
            if new := set(chain.calls) - sound.setdefault(place, set()):
                yield from _calls(index, f"entries[{i}].chains[{j}]", chain, new)
                sound[place] |= new


def _entry(index: Index, path: str, entry: EntryRecord) -> Iterator[str]:
    if entry.combo >= len(index.combos):
        yield f"{path}.combo: there is no combo {entry.combo}, there are {len(index.combos)}"
    if entry.phase not in index.phases:
        yield f"{path}.phase: must be one of {sorted(index.phases)}, got {entry.phase!r}"
    if len({(chain.platform, *chain.mesh) for chain in entry.chains}) < len(entry.chains):
        yield f"{path}.chains: two for one platform and mesh"
    for j, chain in enumerate(entry.chains):
        if not chain.calls:
            yield f"{path}.chains[{j}].calls: must hold at least one call"


def _calls(index: Index, path: str, chain: ChainRecord, calls: set[tuple[int, int]]) -> Iterator[str]:
    for i, j in sorted(calls):
        if i >= len(index.programs):
            yield f"{path}.calls: there is no program {i}, there are {len(index.programs)}"
            return
        if j >= len(index.bindings):
            yield f"{path}.calls: there is no binding {j}, there are {len(index.bindings)}"
            return
        program, binding = index.programs[i], index.bindings[j]
        if (program.platform, program.mesh) != (chain.platform, chain.mesh):
            yield (
                f"{path}.calls: program {i} is for {program.platform!r} {dict(program.mesh)}, "
                f"the chain for {chain.platform!r} {dict(chain.mesh)}"
            )
        counts = (len(program.arguments), len(program.results)), (len(binding.takes), len(binding.gives))
        if counts[0] != counts[1]:
            yield f"{path}.calls: program {i} takes and gives {counts[0]} arrays, binding {j} {counts[1]}"


def _weights(index: Index) -> Iterator[str]:
    used = {array.blob for array in index.weights.arrays.values()}
    for path, array in index.weights.arrays.items():
        if array.blob >= len(index.weights.blobs):
            yield f"weights.arrays[{path!r}].blob: no blob {array.blob}, there are {len(index.weights.blobs)}"
    if idle := set(range(len(index.weights.blobs))) - used:
        yield f"weights.blobs[{min(idle)}]: holds none of the weights"


def _tokenizer(index: Index) -> Iterator[str]:
    for name in index.tokenizer:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            yield f"tokenizer: must be a plain file name, got {name!r}"
