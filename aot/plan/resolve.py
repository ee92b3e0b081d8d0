"""Makes a Plan of a Manifest: what it names is looked up, defaults are filled in, the combos are made."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aot import closest, tuning
from aot.errors import InputError
from aot.faults import Faults
from aot.plan import combos, meshes, source
from aot.plan.files import Files
from aot.plan.manifests.manifest import Manifest
from aot.plan.plan import GenerationPlan, Plan
from aot.plan.tokens import Sources
from aot.precompile import Combo
from aot.sampling import Restrictions, SamplingParams
from aot.targets import CudaTarget, Target, target_of


def resolve(manifest: Manifest) -> Plan:
    """The plan of a manifest. Weights are not read, their headers are. Raises ManifestError, a line for each fault."""
    faults = Faults()
    found = source.source_of(manifest, faults)
    expanded, dropped = combos.united(manifest, _facts(manifest, found), faults)
    generation = _generation(manifest, found, expanded, faults)
    targets = _targets(manifest, faults)
    faults.raise_all()
    content = manifest.content
    digests = {} if found.files is None else found.files.digests
    return Plan(
        name=content.name,
        model=dataclasses.replace(found.plan, sources=digests),
        combos=expanded,
        dropped=dropped,
        generation=generation,
        platforms=tuple(content.platforms),
        targets=targets,
        partition=None if content.partition is None else content.partition.model_dump(),
        allow_custom_calls=tuple(content.allow_custom_calls),
        max_combos=max(section.max_combos for section in content.precompile),
    )


def _targets(manifest: Manifest, faults: Faults) -> tuple[Target, ...]:
    partition = manifest.content.partition
    mesh = partition.mesh if partition else {}
    made: list[Target] = []
    for place, section in enumerate(manifest.content.targets):
        given = target_of(section.plain())
        target = meshes.filled(given, mesh)
        for option, text in meshes.mesh_faults(given, mesh):
            faults.add(manifest.place("targets", place, target.platform, option), text)
        if isinstance(target, CudaTarget) and section.tuning is not None:
            with faults.collecting(manifest.place("targets", place, target.platform, "tuning")):
                target = _tuned(target, manifest.directory / section.tuning, made)
        made.append(target)
    return tuple(made)


def _tuned(target: CudaTarget, path: Path, others: list[Target]) -> CudaTarget:
    """A target that names its tuning, which until `aot tune` need not be there. Raises InputError for one of no use."""
    place = str(path.resolve())
    if any(isinstance(other, CudaTarget) and other.tuning == place for other in others):
        raise InputError(f"{path}: is the tuning of another target; give each a file of its own")
    if path.exists():
        tuning.read_tuning(path, target.device)
    return dataclasses.replace(target, tuning=place)


def _facts(manifest: Manifest, found: source.Source) -> combos.Facts:
    return combos.Facts(
        language=found.plan.factory is None,
        max_positions=None if found.description is None else found.description.max_positions,
        images=None if found.description is None else found.description.images,
        new_tokens=manifest.content.generation.max_new_tokens,
    )


def _generation(
    manifest: Manifest, found: source.Source, expanded: tuple[Combo, ...], faults: Faults
) -> GenerationPlan | None:
    given = manifest.content.generation
    if found.plan.factory is not None:
        # The one option that a model of the user's own has, for the default of max_length.
        for name in sorted(given.model_fields_set - {"max_new_tokens"}):
            faults.add(manifest.place("generation", name), "has no meaning beside model.factory; remove it")
        return None
    if found.description is None or found.files is None:
        return None
    tokenizer = None if found.plan.tokenizer is None else Files(found.plan.tokenizer)
    files = Sources(found.files, found.plan.config or {}, tokenizer, found.description.vocab_size)
    special = _special(manifest, files, faults)
    sampling, restrictions = _sampling(manifest, files, special["eos_token_id"], faults)
    return GenerationPlan(
        **special,
        vocab_size=files.vocab_size,
        max_new_tokens=given.max_new_tokens,
        num_return_sequences=_sequences(manifest, expanded, faults),
        streaming_chunks=given.streaming_chunks,
        logits=given.logits,
        sampling=sampling,
        restrictions=restrictions,
    )


def _special(manifest: Manifest, files: Sources, faults: Faults) -> dict[str, Any]:
    """The ids of eos, pad and bos: those given, else those of the checkpoint's files."""
    given = manifest.content.generation
    ids: dict[str, tuple[int, ...]] = {"eos": (), "pad": (), "bos": ()}
    for name in ids:
        key = f"{name}_token_id"
        value = getattr(given, key)
        if value is None:
            with faults.collecting(manifest.place("generation", key)):
                ids[name] = files.ids(name)
            continue
        ids[name] = value if isinstance(value, tuple) else (value,)
        if wrong := [item for item in ids[name] if item >= files.vocab_size]:
            text = f"must be below the size of the vocabulary, {files.vocab_size}, got {wrong[0]!r}"
            faults.add(manifest.place("generation", key), text)
    pad = (*ids["pad"], *ids["eos"], 0)[0]
    return {"eos_token_id": ids["eos"], "pad_token_id": pad, "bos_token_id": next(iter(ids["bos"]), None)}


def _sampling(
    manifest: Manifest, files: Sources, eos: tuple[int, ...], faults: Faults
) -> tuple[SamplingParams, Restrictions]:
    given = manifest.content.generation.sampling
    if isinstance(given, SamplingParams):
        return given, Restrictions()
    with faults.collecting(manifest.place("generation", "sampling")):
        return files.sampling(eos)
    return SamplingParams(), Restrictions()


def _sequences(manifest: Manifest, expanded: tuple[Combo, ...], faults: Faults) -> int | Mapping[str, int]:
    """The number of sequences, or that of every combo by key, where not given 1."""
    given = manifest.content.generation.num_return_sequences
    if isinstance(given, int):
        return given
    keys = [combo.key for combo in expanded]
    table: dict[str, int] = {}
    for name in sorted(given):
        try:
            key = closest.find_combo_key(name, keys)
            if table.setdefault(key, given[name]) != given[name]:
                raise InputError(f"the key {key!r} is given twice, as {name!r} too; give it once")
        except InputError as error:
            place = manifest.place("generation", "num_return_sequences")
            faults.add(place, f"{error}; `aot plan` prints the keys")
    return {key: table.get(key, 1) for key in keys}
