"""What holds between the records of an index beyond their types: one pass over all of it, whenever one is read.

What serves a bundle then needs no check of its own: each position, slot, axis and id means something.
"""

import datetime
import itertools
from collections.abc import Iterator
from typing import Any

from aot import sampling
from aot.bundle.index import chains, contracts
from aot.bundle.index.document import Fault
from aot.bundle.index.records import REPEATED, RESTRICTED, ComboRecord, GenerationRecord, Index, stored_blobs
from aot.errors import AotError
from aot.precompile import Combo
from aot.sampling import RESTRICTIONS, SAMPLING_FIELDS
from aot.slots import GIVES, INPUT, TAKES, WEIGHT, slot_of
from aot.vision import FITS, ROTARY

_TAKES = frozenset(TAKES)
_GIVES = frozenset(GIVES)
_VERSIONS = {"jax", "jaxlib"}
_LOGITS = ("none", "last", "all")
_DRAWN = {"prefill": {"token", "logprob"}, "decode": {"tokens", "logprobs", "steps"}}
_PIXELS = 1 << 16


def check_index(index: Index) -> None:
    """Raises Fault with the path of the first fault and what is wrong there."""
    rules = (
        *(_valid_until, _versions, _sizes, _combos, _phases, _bindings, _entries, _weights, contracts.program_faults),
        *(chains.chain_faults, _generation, _images),
    )
    for fault in itertools.chain.from_iterable(rule(index) for rule in rules):
        raise Fault(fault)


def _valid_until(index: Index) -> Iterator[str]:
    try:
        datetime.date.fromisoformat(index.valid_until)
    except ValueError:
        yield f"valid_until: must be a day as YYYY-MM-DD, got {index.valid_until!r}"


def _versions(index: Index) -> Iterator[str]:
    if index.versions.keys() != _VERSIONS:
        yield f"versions: must be of {' and '.join(sorted(_VERSIONS))}, got {', '.join(index.versions)[:80] or 'none'}"


def _sizes(index: Index) -> Iterator[str]:
    sizes: dict[str, int] = {}
    for path, _, name, size in stored_blobs(index):
        if sizes.setdefault(name, size) != size:
            yield f"{path}.bytes: the same blob has {sizes[name]} bytes elsewhere, here {size}"


def _combos(index: Index) -> Iterator[str]:
    seen = set()
    for i, combo in enumerate(index.combos):
        if combo.key in seen:
            yield f"combos[{i}].key: occurs twice: {combo.key!r}"
        seen.add(combo.key)
        yield from _dimensions(f"combos[{i}]", combo)


def _dimensions(place: str, record: ComboRecord) -> Iterator[str]:
    given = dict(record.dimensions)
    try:
        combo = Combo(**given)
    except (AotError, TypeError) as error:
        yield f"{place}.dimensions: {' '.join(str(error).split())}"
        return
    if combo.extract() != given:
        yield f"{place}.dimensions: must be all of them, each with its one value"
    elif combo.key != record.key:
        yield f"{place}.key: must be that of its dimensions, {combo.key!r}, got {record.key!r}"


def _bindings(index: Index) -> Iterator[str]:
    weights = WEIGHT.slots(index.weights.arrays).keys()
    for i, binding in enumerate(index.bindings):
        for kind, slots, allowed in (("takes", binding.takes, _TAKES), ("gives", binding.gives, _GIVES)):
            for j, slot in enumerate(slots):
                source, name = slot_of(slot)
                if source not in allowed or not name:
                    yield f"bindings[{i}].{kind}[{j}]: must be {_kinds(allowed)}, '/' and a name, got {slot!r}"
                if source is WEIGHT and slot not in weights:
                    yield f"bindings[{i}].{kind}[{j}]: no weight {name!r} in weights.arrays"
        if len(set(binding.gives)) < len(binding.gives):
            yield f"bindings[{i}].gives: a slot occurs twice"


def _kinds(allowed: frozenset[str]) -> str:
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
        if index.format < REPEATED and any(chain.repeat is not None for chain in entry.chains):
            yield f"entries[{i}].chains: must not repeat calls before format {REPEATED}"
    if idle := set(range(len(index.combos))) - {combo for combo, _ in seen}:
        yield f"combos[{min(idle)}]: has no entry"
    if unused := index.phases.keys() - {phase for _, phase in seen}:
        yield f"phases[{min(unused)!r}]: has no entry"


def _phases(index: Index) -> Iterator[str]:
    for name, phase in index.phases.items():
        if unknown := sorted(set(phase.partial) - phase.inputs.keys()):
            yield f"phases[{name!r}].partial: {unknown[0]!r} is none of its inputs"


def _weights(index: Index) -> Iterator[str]:
    used = {array.blob for array in index.weights.arrays.values()}
    for path, array in index.weights.arrays.items():
        place = f"weights.arrays[{path!r}]"
        if array.blob >= len(index.weights.blobs):
            yield f"{place}.blob: no blob {array.blob}, there are {len(index.weights.blobs)}"
            return
        if fault := contracts.array_fault(array.dtype, array.shape):
            yield f"{place}{fault}"
    if idle := set(range(len(index.weights.blobs))) - used:
        yield f"weights.blobs[{min(idle)}]: holds none of the weights"


def _generation(index: Index) -> Iterator[str]:
    if (record := index.generation) is None:
        return
    ids = {
        "eos_token_id": record.eos_token_id,
        "pad_token_id": (record.pad_token_id,),
        "bos_token_id": () if record.bos_token_id is None else (record.bos_token_id,),
    }
    for name, given in ids.items():
        if given and max(given) >= record.vocab_size:
            yield f"generation.{name}: {max(given)} is beyond the vocabulary of {record.vocab_size}"
    if record.logits not in _LOGITS:
        yield f"generation.logits: must be {' or '.join(_LOGITS)}, got {record.logits!r}"
    yield from _sequences(index, record)
    yield from _sampling(index, record)
    yield from _language(index)
    yield from _vocabulary(index, record.vocab_size)
    yield from _turns(index, record)


def _sequences(index: Index, record: GenerationRecord) -> Iterator[str]:
    rows = {combo.key: combo.dimensions["batch_size"] for combo in index.combos}
    given = record.num_return_sequences
    each = {"": given} if isinstance(given, int) else given
    for key, number in each.items():
        limit = rows.get(key, 0) if key else max(rows.values(), default=0)
        if number > limit:
            place = f"[{key!r}]" if key else ""
            yield f"generation.num_return_sequences{place}: {number} sequences, built are {limit} rows"


def _sampling(index: Index, record: GenerationRecord) -> Iterator[str]:
    numbers: dict[str, Any] = {name: value for name, value in record.sampling.items() if name in SAMPLING_FIELDS}
    try:
        sampling.SamplingParams(**numbers)
    except AotError as error:
        yield f"generation.sampling: {error}"
    for name, value in record.sampling.items():
        place = f"generation.sampling[{name!r}]"
        if name in SAMPLING_FIELDS:
            continue
        if name not in RESTRICTIONS:
            yield f"{place}: unknown name; known: {', '.join((*SAMPLING_FIELDS, *RESTRICTIONS))}"
        elif index.format < RESTRICTED:
            yield f"{place}: must not be there before format {RESTRICTED}"
        elif not (isinstance(value, tuple) and value and all(type(v) is RESTRICTIONS[name] and v != "" for v in value)):
            yield f"{place}: must be a list of {RESTRICTIONS[name].__name__} that is not empty, got {value!r:.80}"
        elif name != "stop" and any(token not in range(record.vocab_size) for token in value):
            yield f"{place}: must be tokens of the vocabulary, which ends at {record.vocab_size - 1}"


def _language(index: Index) -> Iterator[str]:
    """A language model's requests prefill and decode in every combo."""
    for name in ("prefill", "decode"):
        phase = index.phases.get(name)
        there = {entry.combo for entry in index.entries if entry.phase == name}
        if phase is None or len(there) < len(index.combos):
            yield f"entries: a language model has a phase {name!r} for each combo"
        elif lacking := sorted(_DRAWN[name] - phase.outputs.keys()):
            yield f"phases[{name!r}]: lacks {lacking[0]!r}, which a language model's has"


def _turns(index: Index, record: GenerationRecord) -> Iterator[str]:
    for i, entry in enumerate(index.entries):
        for j, chain in enumerate(entry.chains):
            if chain.repeat is not None and chain.repeat.most != record.streaming_chunks:
                yield (
                    f"entries[{i}].chains[{j}].repeat.most: must be generation.streaming_chunks, "
                    f"{record.streaming_chunks}, got {chain.repeat.most}"
                )


def _vocabulary(index: Index, size: int) -> Iterator[str]:
    """What takes tokens and one table of weights looks them up in it; a token beyond would be another's."""
    calls = {c for e in index.entries if e.phase == "prefill" for chain in e.chains for c in chain.calls}
    weight, tokens = WEIGHT.prefix, INPUT.slot("tokens")
    for _, j in calls:
        takes = index.bindings[j].takes
        arrays = (index.weights.arrays[slot.removeprefix(weight)] for slot in takes if slot.startswith(weight))
        tables = [array.shape[0] for array in arrays if len(array.shape) == 2]
        if tokens in takes and len(tables) == 1 and size > tables[0]:
            yield f"generation.vocab_size: {size} is beyond the {tables[0]} rows that tokens are looked up in"


def _images(index: Index) -> Iterator[str]:
    seeing = [i for i, combo in enumerate(index.combos) if combo.dimensions.get("vision_included")]
    if (images := index.images) is None:
        if seeing and index.generation is not None:
            yield f"images: must be there, combos[{seeing[0]}] of a language model has vision"
        return
    encoding = {entry.combo for entry in index.entries if entry.phase == "encode"}
    if blind := [i for i in seeing if i not in encoding]:
        yield f"entries: there is no phase 'encode' for combos[{blind[0]}], which has vision"
    if not (0 < images.unit <= _PIXELS and 0 < images.channels <= _PIXELS):
        yield f"images: unit and channels must be at least 1, got {images.unit} and {images.channels}"
    limit = _PIXELS if index.generation is None else index.generation.vocab_size
    if not all(0 <= number < limit for number in (images.token, *images.before, *images.after)):
        yield f"images: token, before and after must be ids below {limit}"
    if not 0 <= images.extra <= _PIXELS:
        yield f"images.extra: must be from 0 to {_PIXELS}, got {images.extra}"
    if images.rotary not in ROTARY:
        yield f"images.rotary: must be one of {', '.join(ROTARY)}, got {images.rotary!r}"
    fits = [step.get("fit") for step in images.recipe if step.get("step") == "resize"]
    if len(fits) != 1 or fits[0] not in FITS:
        yield f"images.recipe: must resize once, with a fit of {' or '.join(FITS)}, got {fits!r}"
