"""What holds between the records of an index beyond their types: positions, digests, slots, names.

Of each program and each chain when it is used, of all else when an index is decoded.
"""

import datetime
import itertools
import re
from collections.abc import Iterable, Iterator

from aot import digest
from aot.bundle.records import ArgumentRecord, ChainRecord, Index, ProgramRecord, stored
from aot.chain import GIVES, TAKES
from aot.sampling import FIELDS, RESTRICTIONS
from aot.vision import FITS, ROTARY

_KEY = re.compile(r"[0-9a-f]{64}")
_TAKES = set(TAKES)
_GIVES = set(GIVES)
_RESTRICTED = 2  # the format in which restrictions came


def check(index: Index) -> None:
    """Raises ValueError with the path of the first fault and what is wrong there, programs and chains aside."""
    _raise_first(
        rule(index)
        for rule in (
            *(_valid_until, _blobs, _combos, _phases, _bindings, _entries, _weights, _tokenizer, _images),
            _sampling,
        )
    )


def check_rows(index: Index) -> None:
    """The same for programs and chains, each of which is read."""
    for rows in (index.programs, *(entry.chains for entry in index.entries)):
        rows[:]
    _raise_first(rule(index) for rule in (_sizes, _chains))


def program(record: ProgramRecord) -> Iterator[str]:
    """What does not hold in a program, by the way to it."""
    yield from _digest(".digest", record.digest)
    for i, executable in enumerate(record.executables):
        yield from _digest(f".executables[{i}].digest", executable.digest)
        if executable.tuning is not None:
            yield from _digest(f".executables[{i}].tuning.digest", executable.tuning.digest)
    for kind, arrays in (("arguments", record.arguments), ("results", record.results)):
        if len({array.name for array in arrays}) < len(arrays):
            yield f".{kind}: a name occurs twice"


def argument(record: ArgumentRecord) -> Iterator[str]:
    """What does not hold in an argument or a result, by the way to it."""
    if len(record.sharding) != len(record.shape):
        yield f".sharding: has {len(record.sharding)} axes, the shape {len(record.shape)}"


def chain(index: Index, record: ChainRecord) -> Iterator[str]:
    """What does not hold in a chain and between it and the index, by the way to it."""
    if not record.calls:
        yield ".calls: must hold at least one call"
    for i, j in sorted(set(record.calls)):
        yield from _call(index, record, i, j)


def _raise_first(rules: Iterable[Iterator[str]]) -> None:
    for fault in itertools.chain.from_iterable(rules):
        raise ValueError(fault)


def _valid_until(index: Index) -> Iterator[str]:
    try:
        spelled = datetime.date.fromisoformat(index.valid_until).isoformat()
    except ValueError:
        spelled = ""
    if spelled != index.valid_until:
        yield f"valid_until: must be a day as YYYY-MM-DD, got {index.valid_until!r}"


def _blobs(index: Index) -> Iterator[str]:
    for i, blob in enumerate(index.weights.blobs):
        yield from _digest(f"weights.blobs[{i}].digest", blob.digest)
    for name, blob in index.tokenizer.items():
        yield from _digest(f"tokenizer[{name!r}].digest", blob.digest)


def _digest(path: str, name: str) -> Iterator[str]:
    if not digest.is_digest(name):
        yield f"{path}: must be 'sha256:' and 64 lower-case hex digits, got {name!r}"


def _sizes(index: Index) -> Iterator[str]:
    sizes: dict[str, int] = {}
    for path, _, name, size in stored(index):
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
    for i, entry in enumerate(index.entries):
        if (entry.combo, entry.phase) in seen:
            yield f"entries[{i}]: combo {entry.combo} has two entries for the phase {entry.phase!r}"
        seen.add((entry.combo, entry.phase))
        if entry.combo >= len(index.combos):
            yield f"entries[{i}].combo: there is no combo {entry.combo}, there are {len(index.combos)}"
        if entry.phase not in index.phases:
            yield f"entries[{i}].phase: must be one of {sorted(index.phases)}, got {entry.phase!r}"


def _chains(index: Index) -> Iterator[str]:
    for i, entry in enumerate(index.entries):
        if len({(made.platform, *made.mesh) for made in entry.chains}) < len(entry.chains):
            yield f"entries[{i}].chains: two for one platform and mesh"


def _call(index: Index, chain: ChainRecord, i: int, j: int) -> Iterator[str]:
    for kind, position, rows in (("program", i, index.programs), ("binding", j, index.bindings)):
        if position >= len(rows):
            yield f".calls: there is no {kind} {position}, there are {len(rows)}"
            return
    program, binding = index.programs[i], index.bindings[j]
    if (program.platform, program.mesh) != (chain.platform, chain.mesh):
        yield (
            f".calls: program {i} is for {program.platform!r} {dict(program.mesh)}, "
            f"the chain for {chain.platform!r} {dict(chain.mesh)}"
        )
    counts = (len(program.arguments), len(program.results)), (len(binding.takes), len(binding.gives))
    if counts[0] != counts[1]:
        yield f".calls: program {i} takes and gives {counts[0]} arrays, binding {j} {counts[1]}"


def _weights(index: Index) -> Iterator[str]:
    used = {array.blob for array in index.weights.arrays.values()}
    for path, array in index.weights.arrays.items():
        if array.blob >= len(index.weights.blobs):
            yield f"weights.arrays[{path!r}].blob: no blob {array.blob}, there are {len(index.weights.blobs)}"
    if idle := set(range(len(index.weights.blobs))) - used:
        yield f"weights.blobs[{min(idle)}]: holds none of the weights"


def _phases(index: Index) -> Iterator[str]:
    for name, phase in index.phases.items():
        if unknown := sorted(set(phase.partial) - phase.inputs.keys()):
            yield f"phases[{name!r}].partial: {unknown[0]!r} is none of its inputs"


def _images(index: Index) -> Iterator[str]:
    if (images := index.images) is None:
        seeing = [i for i, combo in enumerate(index.combos) if combo.dimensions.get("vision_included")]
        if seeing and index.generation is not None:
            yield f"images: must be there, combos[{seeing[0]}] of a language model has vision"
        return
    if not (images.unit and images.channels):
        yield f"images: unit and channels must be at least 1, got {images.unit} and {images.channels}"
    if images.rotary not in ROTARY:
        yield f"images.rotary: must be one of {', '.join(ROTARY)}, got {images.rotary!r}"
    fits = [step.get("fit") for step in images.recipe if step.get("step") == "resize"]
    if len(fits) != 1 or fits[0] not in FITS:
        yield f"images.recipe: must resize once, with a fit of {' or '.join(FITS)}, got {fits!r}"


def _sampling(index: Index) -> Iterator[str]:
    if index.generation is None:
        return
    for name, value in index.generation.sampling.items():
        place = f"generation.sampling[{name!r}]"
        if name in FIELDS:
            if type(value) not in (int, float):
                yield f"{place}: must be a number, got {value!r:.80}"
        elif name not in RESTRICTIONS:
            yield f"{place}: unknown name; known: {', '.join((*FIELDS, *RESTRICTIONS))}"
        elif index.format < _RESTRICTED:
            yield f"{place}: must not be there before format {_RESTRICTED}"
        elif not (
            isinstance(value, tuple)
            and value
            and all(type(item) is RESTRICTIONS[name] and item != "" for item in value)
        ):
            yield f"{place}: must be a list of {RESTRICTIONS[name].__name__} that is not empty, got {value!r:.80}"
        elif name != "stop" and not all(0 <= token < index.generation.vocab_size for token in value):
            yield f"{place}: must be tokens of the vocabulary, which ends at {index.generation.vocab_size - 1}"


def _tokenizer(index: Index) -> Iterator[str]:
    for name in index.tokenizer:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            yield f"tokenizer: must be a plain file name, got {name!r}"
