"""Measures one bundle on this machine: fresh processes, the read bandwidth of memory between them."""

import compileall
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

from aot import buckets, children, errors, isa
from aot.bench import figures, process
from aot.bench.figures import RunDocument
from aot.bench.process import Contestant
from aot.bench.trial import Trial
from aot.bundle import store
from aot.bundle.index.records import GenerationRecord, Index
from aot.bundle.store import BLOBS, Bundle
from aot.errors import AotError, InputError
from aot.precompile import Combo
from aot.runtime.device import flags
from aot.runtime.verification import Verify

BUNDLE, BANDWIDTH = "bundle", "bandwidth"
_SLACK = 1 << 29
"""Bytes that a process takes beside its weights: code, activations, the KV cache."""
_STEP = 7919  # a prime, so that prompts have few tokens twice


SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""Variables of all contestants: jax's GPU client would take most of the memory, and leave a second process none."""


@dataclass(frozen=True)
class BenchOptions:
    """What to measure; None is what the bundle suggests."""

    rounds: int
    prompt_tokens: int | None
    new_tokens: int | None
    verify: Verify


def measure_bundle(
    path: Path, options: BenchOptions, report: Callable[[int, str], None] = lambda number, name: None
) -> dict[str, Any]:
    """The document of `aot bench`.

    Raises InputError for a bundle without a language model, NoEntryError for a request that fits none of its entries,
    what a measured process raised of AotError, and AotError where every run failed for another reason.
    """
    flags.settle_flags()  # once for all processes that are measured
    bundle = store.open(path)
    trial = _trial(bundle, options)
    found = _found([bundle_contestant(bundle, trial), bandwidth_contestant()], options.rounds, report)
    width = greatest_bandwidth(found[BANDWIDTH])
    known = {} if width is None else {BANDWIDTH: width}
    documents = [{**document, **known} for document in found[BUNDLE] if "error" not in document]
    if not documents:
        raise AotError(f"bundle {path}: no run of it succeeded: {found[BUNDLE][-1]['error']}; try aot run")
    return {
        "machine": describe_machine(),
        "versions": documents[0]["versions"],
        "bundle": {"digest": bundle.digest, **_described(bundle.index), "weight_bytes": documents[0]["weight_bytes"]},
        "request": {"prompt_tokens": len(trial.prompt), "new_tokens": trial.new_tokens},
        "bandwidth": width,
        "figures": {name: vars(figure) for name, figure in figures.figures_of(documents).items()},
        "rounds": found[BUNDLE],
    }


def _found(
    contestants: Sequence[Contestant], rounds: int, report: Callable[[int, str], None]
) -> dict[str, list[RunDocument]]:
    """The documents of each by name; the first AotError of a process is raised here as well."""
    found: dict[str, list[RunDocument]] = {each.name: [] for each in contestants}
    for name, document in process.measure_in_turn(contestants, rounds, report):
        if "class" in document:
            raise getattr(errors, document["class"])(document["error"])
        found[name].append(document)
    return found


def bundle_contestant(bundle: Bundle, trial: Trial) -> Contestant:
    """A bundle as a contestant. Our modules are compiled, as pip leaves them."""
    compileall.compile_dir(Path(__file__).parents[1], quiet=2)
    command = children.child_command("aot.bench.child", str(bundle.path), trial.argument())
    blobs = tuple(sorted((bundle.path / BLOBS).iterdir()))
    weights = sum(blob.bytes for blob in bundle.index.weights.blobs)
    return Contestant(
        BUNDLE, command, {**SHARED, **children.child_variables()}, (*blobs, *_libraries()), weights + _SLACK
    )


def bandwidth_contestant() -> Contestant:
    """What measures the machine's read bandwidth, as a contestant."""
    return Contestant(
        BANDWIDTH, children.child_command("aot.bench.bandwidth"), children.child_variables(), (), _SLACK * 3
    )


def greatest_bandwidth(documents: Sequence[RunDocument]) -> float | None:
    """Bytes a second, of what `bandwidth_contestant` printed; None where each run failed."""
    return max((document[BANDWIDTH] for document in documents if BANDWIDTH in document), default=None)


def prompt_ids(tokens: int, vocabulary: int, image: int | None = None) -> list[int]:
    """Token ids without a meaning, the same for every bundle of a vocabulary; none stands for an image."""
    ids = ((position + 1) * _STEP % vocabulary for position in range(tokens))
    return [(id + 1) % vocabulary if id == image else id for id in ids]


def describe_machine() -> dict[str, Any]:
    """What figures depend on, for people."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cpu = isa.processor_name()
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory": memory, "kernel": platform.release()}


def _trial(bundle: Bundle, options: BenchOptions) -> Trial:
    """What is asked: by default the longest prompt of the smallest batch, and the tokens that it suggests or has."""
    record, combos = _language(bundle)
    props = combos[0].required_props
    combos = [combo for combo in combos if combo.required_props == props]
    rows = min(combo.batch_size for combo in combos)
    prefills = [combo.prefill_length or 1 for combo in combos if combo.batch_size == rows]
    length = options.prompt_tokens or max(prefills)
    table = buckets.Table(combos)
    new = options.new_tokens or min(record.max_new_tokens, max(_room(combo, length) for combo in combos))
    need = buckets.Need(1, length, length + max(1, new), props)
    if table.choose(need) is None:
        raise table.refusal(need)
    images = bundle.index.images
    ids = prompt_ids(length, record.vocab_size, None if images is None else images.token)
    return Trial(tuple(ids), new, options.verify, props)


def _language(bundle: Bundle) -> tuple[GenerationRecord, list[Combo]]:
    record = bundle.index.generation
    if record is None:
        raise InputError(f"bundle {bundle.path}: holds no language model, and bench measures how one generates")
    used = {entry.combo for entry in bundle.index.entries if entry.phase == "decode"}
    return record, [Combo(**dict(bundle.index.combos[position].dimensions)) for position in sorted(used)]


def _room(combo: Combo, length: int) -> int:
    """New tokens for which a combo has room beside a prompt that it takes."""
    if (combo.prefill_length or length) < length:
        return 0
    return (combo.max_length or length + sys.maxsize) - length


def _described(index: Index) -> dict[str, Any]:
    kinds = [array.dtype for array in index.weights.arrays.values()]
    return {"dtype": max(sorted(set(kinds)), key=kinds.count), "family": index.model.get("family")}


def _libraries() -> list[Path]:
    """Modules and shared objects that may be read before the first token."""
    found: list[Path] = []
    for name in ("aot", "jaxlib", "numpy", "ml_dtypes", "msgspec", "jax"):
        spec = util.find_spec(name)
        for place in (spec and spec.submodule_search_locations) or ():
            found += [path for suffix in (".so", ".pyc") for path in sorted(Path(place).rglob(f"*{suffix}"))]
    return found
