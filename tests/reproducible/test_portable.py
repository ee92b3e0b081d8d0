"""Portable arithmetic: what a bundle gives is the same to the bit on every CPU, and is held to that."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import aot, built
from other_cpus import EMULATED, emulator, needs_emulator, printed
from places import TINY

from aot import plan as plans
from aot.bundle import loss, store
from aot.golden import expected
from aot.golden import replay as golden
from aot.runtime.fitting import entries

KINDS = {"float32": "dtype: float32", "bfloat16": "dtype: bfloat16", "int8": "dtype: float32, quantization: int8"}
THOROUGH = dict.fromkeys(("float32", "bfloat16"), pytest.mark.thorough)
MANIFEST = """\
name: portable
model: {{checkpoint: tiny/, {model}}}
precompile: {{batch_size: 2, prefill_length: 8}}
generation: {{max_new_tokens: 12, streaming_chunks: 4, logits: all}}
platforms: [cpu]
targets: [{{cpu: {{isa: avx2, arithmetic: {arithmetic}}}}}]
"""

Bundles = Callable[..., Path]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """The tiny model in a kind of weights, built for portable or fast arithmetic when it is first asked for."""
    home, made = tmp_path_factory.mktemp("portable"), {}
    shutil.copytree(TINY.parent / "tiny", home / "tiny")

    def get(kind: str, arithmetic: str = "portable") -> Path:
        name = f"{kind}-{arithmetic}"
        if name not in made:
            (home / f"{name}.yaml").write_text(MANIFEST.format(model=KINDS[kind], arithmetic=arithmetic))
            made[name] = built(home / f"{name}.yaml", home / name)
        return made[name]

    return get


def logits(bundle: Path, **how: Any) -> str:
    """The digest of what a fresh process makes of two prompts."""
    return printed("read_logits.py", bundle, HOME=str(bundle.parent), **how)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=THOROUGH.get(kind, ())) for kind in KINDS])
def test_logits_and_texts_are_the_same_bits_in_every_disguise(
    kind: str, bundle: Bundles, wardrobe: dict[str, str]
) -> None:
    here = logits(bundle(kind))

    for name in ("haswell", "znver2"):
        assert logits(bundle(kind), CPUID_AS=name, **wardrobe) == here


@pytest.mark.slow
@needs_emulator
@pytest.mark.parametrize("name", EMULATED)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_texts_are_the_same_bits_on_an_emulated_cpu(kind: str, name: str, bundle: Bundles) -> None:
    assert logits(bundle(kind), command=emulator(name)) == logits(bundle(kind))


def test_one_core_gives_the_bits_of_all(bundle: Bundles) -> None:
    here = logits(bundle("int8"))

    assert logits(bundle("int8"), command=("taskset", "-c", str(min(os.sched_getaffinity(0))))) == here


def test_a_target_that_says_fast_is_the_one_that_says_nothing(tmp_path: Path) -> None:
    shutil.copytree(TINY.parent / "tiny", tmp_path / "tiny")
    fast = MANIFEST.format(model=KINDS["float32"], arithmetic="fast")
    found = []
    for name, text in (("fast", fast), ("silent", fast.replace(", arithmetic: fast", ""))):
        (tmp_path / f"{name}.yaml").write_text(text)
        found.append(plans.resolve(plans.read_manifest(tmp_path / f"{name}.yaml")).targets)

    assert found[0] == found[1]
    assert "arithmetic" not in text


def test_the_arithmetic_is_recorded_in_target_and_flags(bundle: Bundles) -> None:
    executables = [e for program in store.open(bundle("int8")).index.programs for e in program.executables]

    assert {e.target["cpu"]["arithmetic"] for e in executables} == {"portable"}
    assert all("--xla_cpu_enable_platform_dependent_math=false" in e.flags for e in executables)
    assert "cpu portable arithmetic, avx2, 32 threads" in aot("inspect", bundle("int8")).out


def test_a_build_of_int8_records_what_it_costs_and_no_other_build_does(bundle: Bundles, tiny_bundle: Path) -> None:
    found = loss.read_loss(store.open(bundle("int8")))

    assert found is not None
    assert (found.quantization, found.dtype, found.tokens) == ("int8", "float32", 12)
    assert 0 < found.nats < loss.LARGE
    assert aot("inspect", bundle("int8"), "--json").document["loss"] == vars(found)
    assert loss.read_loss(store.open(tiny_bundle)) is None


def nudged(document: bytes) -> bytes:
    """Golden outputs of which one logprob is another in its last bit."""
    golden = json.loads(document)
    entry = next(entry for entry in golden["entries"] if entry["phase"] == "prefill")
    values: list[Any] = entry["outputs"]["logprob"]["values"]
    values[0] *= 1 + 2.0**-23
    return json.dumps(golden, separators=(",", ":"), sort_keys=True).encode()


@pytest.mark.thorough
def test_golden_outputs_are_compared_bit_by_bit_where_arithmetic_is_portable_and_only_there(bundle: Bundles) -> None:
    found = {}
    for arithmetic in ("portable", "fast"):
        opened = store.open(bundle("float32", arithmetic))
        document = opened.attachment("golden") or b""
        recorded, _ = expected.read_golden(document, "golden")
        told = {name.verdict for name in golden.replay_golden(opened, document)}
        later = {made.phase: made.verdict for made in golden.replay_golden(opened, nudged(document))}
        found[arithmetic] = {made.tolerance for made in recorded.values()} == {0.0}, told, later["prefill"]

    assert found == {
        "portable": (True, {"reproduced"}, "differs"),
        "fast": (False, {"reproduced"}, "reproduced"),
    }


def test_what_was_recorded_in_portable_arithmetic_is_compared_with_tolerance_where_another_runs(
    bundle: Bundles,
) -> None:
    portable, fast = store.open(bundle("float32")), store.open(bundle("float32", "fast"))
    replayed = golden.replay_golden(fast, nudged(portable.attachment("golden") or b""))

    assert {made.verdict for made in replayed} == {"reproduced"}
    assert all(
        entry.calls and golden.golden_tolerance(entry) > 0
        for entry in entries.entries_of(fast.index, entries.ONE_DEVICE)
    )
