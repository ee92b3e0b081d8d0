"""Every factor changes the digests that it enters, and no others; nothing else changes any."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import seeing
import synthetic
from commands import aot
from layered import LAYER
from layered import manifest as home
from places import ROOT, TESTS, TINY

from aot import plan as plans
from aot.audit import factors
from aot.builder.compiling import pin
from aot.builder.workers import _FIXED
from aot.bundle import store
from aot.bundle.index import codec, records
from aot.plan import Plan
from manifests import mesh_manifest

HERE = TESTS / "support"
KINDS = ("key", "program", "executable", "bundle")
NAMES = [factor.name for factor in factors.FACTORS]


def edited(manifest: Path, old: str, new: str) -> None:
    source = manifest.with_name("layer.py")
    assert source.read_text().count(old) == 1, old
    source.write_text(source.read_text().replace(old, new))


# A mutation gets a manifest in a directory of its own, which it may edit, and gives the plan that is lowered.
Mutation = Callable[[Path], Plan]


def resolved(manifest: Path) -> Plan:
    return plans.resolve(plans.read_manifest(manifest))


def in_manifest(old: str, new: str) -> Mutation:
    def mutate(manifest: Path) -> Plan:
        assert LAYER.count(old) == 1, old
        manifest.write_text(LAYER.replace(old, new))
        return resolved(manifest)

    return mutate


def in_source(old: str, new: str) -> Mutation:
    def mutate(manifest: Path) -> Plan:
        edited(manifest, old, new)
        return resolved(manifest)

    return mutate


def other_source(manifest: Path) -> Plan:
    edited(manifest, "SCALE = 2.0", "SCALE = 3.0")
    manifest.with_name("layer.py").rename(manifest.with_name("other.py"))
    manifest.write_text(LAYER.replace("layer:make", "other:make"))
    return resolved(manifest)


def other_weight(manifest: Path) -> Plan:
    manifest.with_name("weight.txt").write_text("0.5")
    return resolved(manifest)


def other_tokenizer(manifest: Path) -> Plan:
    (manifest.parent / "tokenizer").mkdir()
    (manifest.parent / "tokenizer" / "tokenizer.json").write_text("{}")
    return in_manifest('"layer:make", ', '"layer:make", tokenizer: tokenizer, ')(manifest)


def in_decoder(**generation: Any) -> Mutation:
    """Other generation options, of a decoder too small to have weights."""

    def mutate(manifest: Path) -> Plan:
        plan = resolved(TINY)
        return dataclasses.replace(small(plan, generation), combos=plan.combos[:1], platforms=("cpu",))

    return mutate


def in_looped(**generation: Any) -> Mutation:
    """The same on a mesh, where decode is one program with the loop inside."""
    return lambda manifest: small(resolved(mesh_manifest(manifest.parent)), generation)


def small(plan: Plan, generation: Mapping[str, Any]) -> Plan:
    assert plan.model.config is not None
    assert plan.generation is not None
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 2, "vocab_size": 64, "max_window_layers": 1}
    config = {name: v for name, v in plan.model.config.items() if name not in ("layer_types", "head_dim")} | sizes
    options = dataclasses.replace(plan.generation, vocab_size=64, **{"streaming_chunks": 2, **generation})
    model = dataclasses.replace(plan.model, config=config)
    return dataclasses.replace(plan, model=model, generation=options, targets=plan.targets[:1])


def in_seeing(**preprocessor: Any) -> Mutation:
    """Another preprocessor of a model that takes images; without targets, for compiling is not what it is about."""

    def mutate(manifest: Path) -> Plan:
        shape = "prefill_length: 8, vision_included: true, vision_height: 28, vision_width: 28"
        plan = seeing.resolved(seeing.write(manifest.parent), shape)
        assert plan.model.preprocessor is not None
        model = dataclasses.replace(plan.model, preprocessor={**plan.model.preprocessor, **preprocessor})
        return dataclasses.replace(plan, model=model, platforms=("cpu",), targets=())

    return mutate


BASES: Mapping[str, Mutation] = {
    "layer": resolved,
    "decoder": in_decoder(),
    "looped": in_looped(),
    "seeing": in_seeing(),
}
CASES: Mapping[str, tuple[str, Mutation]] = {
    "format": ("layer", resolved),  # those without a change of the plan are patched in the laboratory, by name
    "jax": ("layer", resolved),
    "jaxlib": ("layer", resolved),
    "compiler": ("layer", resolved),
    "validity": ("layer", resolved),
    "origin": ("layer", resolved),
    "model source": ("layer", other_source),
    "model config": ("layer", in_manifest("factor: 1.5", "factor: 2.5")),
    "images": ("seeing", in_seeing(image_mean=[0.0, 0.0, 0.0])),
    "weights": ("layer", other_weight),
    "tokenizer": ("layer", other_tokenizer),
    "precompile config": ("layer", in_manifest("batch_size: 4", "batch_size: 8")),
    "generation.max_new_tokens": ("decoder", in_decoder(max_new_tokens=5)),
    "generation.num_return_sequences": ("decoder", in_decoder(num_return_sequences=2)),
    "generation.streaming_chunks": ("looped", in_looped(streaming_chunks=3)),
    "generation.logits": ("decoder", in_decoder(logits="all")),
    "generation.eos_token_id": ("decoder", in_decoder(eos_token_id=(1, 2, 3))),
    "generation.pad_token_id": ("decoder", in_decoder(pad_token_id=7)),
    "generation.bos_token_id": ("decoder", in_decoder(bos_token_id=8)),
    "generation.sampling": ("decoder", in_decoder(sampling=plans.plan.SamplingParams(temperature=0.5))),
    "generation.suppressed": ("decoder", in_decoder(restrictions=plans.plan.Restrictions(begin_suppress=(3,)))),
    "platforms": ("layer", in_manifest("platforms: [cpu]", "platforms: [cpu, cuda]")),
    "partition rules": ("layer", in_manifest("platforms", "partition: {rules: [[weight, []]]}\nplatforms")),
    "custom calls": ("layer", in_manifest("platforms", "allow_custom_calls: [mine]\nplatforms")),
    "targets": ("layer", in_manifest("threads: 32", "threads: 1")),
    "tuning": ("layer", resolved),
    "flags": ("layer", resolved),
    "settings": ("layer", resolved),
    "calling contracts": ("layer", in_source('program("scaled"', 'program("stretched"')),
    "StableHLO": ("layer", in_source("SCALE = 2.0", "SCALE = 4.0")),
    "executables": ("layer", resolved),
}


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The four kinds of digests of each base and each case."""
    root = tmp_path_factory.mktemp("factors")
    mutations = {name: (name, mutate) for name, mutate in BASES.items()} | dict(CASES)
    jobs = [
        {"plan": mutate(home(root / str(number))), "patch": name, "weights": base == "layer"}
        for number, (name, (base, mutate)) in enumerate(mutations.items())
    ]
    (root / "jobs").write_bytes(pickle.dumps(jobs))
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **_FIXED}
    command = [sys.executable, HERE / "factor_lab.py", root / "jobs", root / "results"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, "\n".join(line for line in done.stderr.splitlines() if not pin.is_noise(line))
    return dict(zip(mutations, json.loads((root / "results").read_text()), strict=True))


def changed(digests: Mapping[str, Mapping[str, Any]], case: str) -> tuple[str, ...]:
    base = digests[CASES[case][0]]
    return tuple(kind for kind in KINDS if digests[case][kind] != base[kind])


def test_every_factor_has_a_case() -> None:
    assert list(CASES) == NAMES


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_a_factor_changes_exactly_the_digests_that_it_enters(digests: dict[str, dict[str, Any]], name: str) -> None:
    assert changed(digests, name) == factors.named(name).enters


NOISE: Mapping[str, Callable[[Path], dict[str, str]]] = {}


def noise(name: str) -> Callable[[Callable[[Path], dict[str, str]]], None]:
    """Registers a source of noise: it edits what lies beside a manifest, and gives environment variables."""

    def register(vary: Callable[[Path], dict[str, str]]) -> None:
        NOISE[name] = vary  # type: ignore[index]

    return register


@noise("order and comments of the manifest")
def _(manifest: Path) -> dict[str, str]:
    manifest.write_text("# the same\n" + "".join(f"{line}  # {line[:4]}\n" for line in LAYER.splitlines()[::-1]))
    return {}


@noise("directory")
def _(manifest: Path) -> dict[str, str]:
    return {}


@noise("hash seed")
def _(manifest: Path) -> dict[str, str]:
    return {"PYTHONHASHSEED": "4711"}


@noise("environment")
def _(manifest: Path) -> dict[str, str]:
    wide = {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_MATMUL_PRECISION": "highest", "JAX_THREEFRY_PARTITIONABLE": "0"}
    flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "NPROC": "1", "LC_ALL": "C", "TZ": "Asia/Kathmandu"}
    return {**wide, **flags, "SOURCE_DATE_EPOCH": "1", "HOME": str(manifest.parent)}


@noise("comment in the model's source")
def _(manifest: Path) -> dict[str, str]:
    edited(manifest, "SCALE = 2.0", "SCALE = 2.0  # twice")
    return {}


@noise("moved lines in the model's source")
def _(manifest: Path) -> dict[str, str]:
    source = manifest.with_name("layer.py")
    source.write_text("\n" * 7 + source.read_text().replace("class Layer:", "class Layer:\n\n"))
    return {}


def noisy(directory: Path, names: Iterable[str]) -> dict[str, Any]:
    """The digests of a bundle built by the command, under some noise."""
    manifest = home(directory)
    variables = {variable: value for name in names for variable, value in NOISE[name](manifest).items()}
    done = aot("build", manifest, "-o", directory / "bundle", "--no-cache", **variables)
    assert done.code == 0, done.err
    index = store.open(directory / "bundle").index
    return {
        "key": sorted(combo.key for combo in index.combos),
        "program": sorted(program.digest for program in index.programs),
        "executable": sorted({e.digest for program in index.programs for e in program.executables}),
        "bundle": store.open(directory / "bundle").digest,
    }


def missed(directory: Path, base: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The noise that changed a digest, and which: all of it at once, and one by one only where that changed any."""
    if noisy(directory / "all of it", NOISE) == base:
        return []
    found = {name: noisy(directory / name, [name]) for name in NOISE} | {"all of it": {}}
    return [(name, kind) for name in found for kind in KINDS if found[name].get(kind) != base[kind]]


@pytest.mark.thorough
def test_no_false_hits_and_no_false_misses(digests: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    wrong = {name: set(changed(digests, name)) ^ set(factors.named(name).enters) for name in CASES}
    hits = [(name, kind) for name in CASES for kind in wrong[name] if kind in factors.named(name).enters]
    misses = [(name, kind) for name in CASES for kind in wrong[name] if kind not in factors.named(name).enters]
    misses += missed(tmp_path, digests["layer"])
    print(
        f"{len(CASES)} factors mutated, {len(NOISE)} noise sources varied: "
        f"{len(hits)} false hits, {len(misses)} false misses"
    )

    assert (hits, misses) == ([], [])


def test_a_changed_constant_changes_exactly_the_programs_that_use_it(digests: dict[str, dict[str, Any]]) -> None:
    before, after = set(digests["layer"]["program"]), set(digests["StableHLO"]["program"])

    assert (len(before), len(after), len(before & after)) == (2, 2, 1)


def fields(record: type, path: str = "") -> Iterator[str]:
    """Every field of a record and of the records in it that holds no record itself."""
    for field in dataclasses.fields(record):
        hint = typing.get_type_hints(record)[field.name]
        nested = [part for part in parts(hint) if dataclasses.is_dataclass(part)]
        place = f"{path}.{field.name}".lstrip(".")
        if nested and factors.owner(place) is None:
            yield from fields(nested[0], place)
        else:
            yield place


def parts(hint: Any) -> Iterator[Any]:
    yield hint
    for argument in typing.get_args(hint):
        if not isinstance(argument, types.EllipsisType):
            yield from parts(argument)


OPEN = {
    "versions": {"versions.jax", "versions.jaxlib"},
    "generation.sampling": {"generation.sampling.suppress", "generation.sampling.begin_suppress"},
}
"""Fields whose names are in factors one by one."""


def test_every_field_of_the_index_is_in_a_factor() -> None:
    found = list(fields(records.Index))

    assert {"programs.executables.flags", "generation.logits", "entries.chains.calls", "settings"} <= set(found)
    assert [field for field in found if factors.owner(field) is None and field not in OPEN] == []
    assert all(factors.owner(name) for names in OPEN.values() for name in names)


def test_every_value_of_an_index_belongs_to_exactly_one_factor() -> None:
    index = synthetic.index()
    places = [(field, place) for field, place, _ in factors.leaves(codec.plain(index))]
    owned = [place for factor in factors.FACTORS for place in factor.leaves(index)]

    assert len(places) > 80
    assert sorted(owned) == sorted(place for _, place in places)


def test_no_field_is_claimed_twice_and_every_claim_is_of_a_field() -> None:
    claims = [claim for factor in factors.FACTORS for claim in factor.fields]
    known = set(fields(records.Index)) | {"model.factory"} | {n for names in OPEN.values() for n in names}

    assert len(set(claims)) == len(claims)
    assert set(claims) <= known


def test_what_enters_a_digest_enters_the_bundle() -> None:
    assert [f.name for f in factors.FACTORS if "bundle" not in f.enters] == []
