"""What a checkpoint's generation_config.json keeps out of every text: stop strings, tokens, words of one token."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic
from commands import aot, built
from oracles import records
from places import TINY

import aot as package
from aot.bundle import store
from aot.bundle.index import codec
from aot.errors import BundleError
from aot.golden import agreement
from aot.runtime.fitting import entries
from aot.sampling import Restrictions, SamplingParams, params_of, record_sampling, restrictions_of

PROMPT = "def read(self"
COMMA, NEWLINE, SIZE = 14, 261, 1117  # what a text likes to begin with; what stands in many; a word of one token
STOP = '"""'
MANIFEST = """\
name: restricted
model: {checkpoint: tiny/, dtype: float32}
precompile: {batch_size: 2, prefill_length: 16}
generation: {max_new_tokens: 16, streaming_chunks: 4, sampling: checkpoint}
platforms: [cpu]
targets: [{cpu: {isa: avx2, threads: 32}}]
"""
GIVEN = {
    "do_sample": True,
    "temperature": 1.0,
    "suppress_tokens": [NEWLINE],
    "begin_suppress_tokens": [COMMA],
    "bad_words_ids": [[SIZE], [0]],  # 0 ends texts, and is let be
    "stop_strings": [STOP],
}


@pytest.fixture(scope="module")
def restricted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("restricted")
    shutil.copytree(TINY.parent / "tiny", home / "tiny")
    file = home / "tiny" / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | GIVEN))
    (home / "restricted.yaml").write_text(MANIFEST)
    return built(home / "restricted.yaml", home / "bundle")


def drawn(bundle: Path, **options: object) -> list[list[int]]:
    with package.load(bundle) as model:
        results = model.generate(PROMPT, n=40, seed=1, **options)
    return [result.token_ids for result in results]


def test_suppressed_tokens_are_never_drawn_and_others_only_not_first(restricted: Path, small_bundle: Path) -> None:
    free, rows = (drawn(bundle, temperature=1.0, stop=[]) for bundle in (small_bundle, restricted))

    assert {row[0] for row in free} & {COMMA}
    assert not {row[0] for row in rows} & {COMMA}
    assert COMMA in {token for row in rows for token in row[1:]}
    assert {NEWLINE, SIZE} <= {token for row in free for token in row}
    assert not {NEWLINE, SIZE} & {token for row in rows for token in row}


def test_tokens_are_those_of_transformers_under_the_same_restrictions(tmp_path: Path) -> None:
    oracle = records.read("tiny-restricted")
    asked = oracle.given["generated"]
    shutil.copytree(TINY.parent / "tiny", tmp_path / "tiny")
    file = tmp_path / "tiny" / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | asked["options"]))
    (tmp_path / "restricted.yaml").write_text(MANIFEST.replace("max_new_tokens: 16", "max_new_tokens: 24"))
    with package.load(built(tmp_path / "restricted.yaml", tmp_path / "bundle")) as model:
        found = [model.generate([ids], temperature=0)[0].token_ids for ids in asked["ids"]]

    assert found == oracle.made["tokens"]["generated"]


def test_stop_strings_of_the_checkpoint_end_a_text_unless_the_request_has_its_own(restricted: Path) -> None:
    with package.load(restricted) as model:
        stopped, plain = model.generate(PROMPT, n=40, seed=1), model.generate(PROMPT, n=40, seed=1, stop=[])
        other = model.generate(PROMPT, n=40, seed=1, stop=["e"])

    held = [result.text for result in plain if STOP in result.text]
    assert held
    assert [result.text for result in stopped] == [result.text.partition(STOP)[0] for result in plain]
    assert {result.finish_reason for result in stopped if result.text not in {r.text for r in plain}} == {"stop"}
    assert [result.text for result in other] == [result.text.partition("e")[0] for result in plain]
    run = aot("run", restricted, "--prompt", PROMPT, "--seed", 1, "--n", 40, "--json").document["results"]
    assert [result["text"] for result in run] == [result.text for result in stopped]


def test_programs_that_draw_tokens_alone_differ_from_those_of_a_bundle_without(
    restricted: Path, small_bundle: Path
) -> None:
    found, plain = (store.open(bundle).index for bundle in (restricted, small_bundle))

    assert found.generation is not None
    assert plain.generation is not None
    assert restrictions_of(found.generation.sampling) == Restrictions((STOP,), (NEWLINE, SIZE), (COMMA,))
    assert restrictions_of(plain.generation.sampling) == Restrictions()
    ours, theirs = ({(p.name, p.digest) for p in index.programs} for index in (found, plain))
    assert {name for name, _ in ours ^ theirs} == {"draw"}


def test_golden_outputs_of_a_bundle_with_suppressed_tokens_are_reproduced(restricted: Path) -> None:
    assert aot("verify", restricted, "--run").code == 0


def test_what_is_recorded_is_read_again() -> None:
    params, restrictions = SamplingParams(temperature=0.5), Restrictions(("a",), (1,), (2, 3))

    record = record_sampling(params, restrictions)

    assert (params_of(record), restrictions_of(record)) == (params, restrictions)
    assert record_sampling(params, Restrictions()) == vars(params)


@pytest.mark.parametrize(
    ("format", "name", "value"),
    [
        (1, "stop", ("a",)),
        (2, "stop", ()),
        (2, "stop", "a"),
        (2, "stop", ("a", "")),
        (2, "suppress", (1.5,)),
        (2, "suppress", ("a",)),
        (2, "suppress", (99,)),
        (2, "begin_suppress", (-1,)),
        (2, "temperature", "hot"),
        (2, "temperature", (1,)),
        (2, "temprature", 1),
    ],
)
def test_an_index_with_other_restrictions_is_refused_at_its_place(format: int, name: str, value: object) -> None:
    index = synthetic.index()
    assert index.generation is not None
    generation = replace(index.generation, sampling={**index.generation.sampling, name: value})

    with pytest.raises(BundleError, match=r"^index: generation\.sampling"):
        codec.decode(codec.encode(replace(index, format=format, generation=generation)), "index")


def test_an_index_with_restrictions_is_read_again() -> None:
    index = synthetic.index()
    assert index.generation is not None
    given = record_sampling(SamplingParams(), Restrictions(("a", "b"), (3,), (1, 2)))
    restricted = replace(index, format=2, generation=replace(index.generation, sampling=given))

    assert codec.decode(codec.encode(restricted), "index") == restricted


def test_a_token_that_is_never_drawn_is_no_better_than_the_recorded_one(restricted: Path) -> None:
    index = store.open(restricted).index
    found = {entry.phase: entry for entry in entries.entries_of(index, entries.find_place(index))}
    logits = np.zeros((1, index.generation.vocab_size if index.generation else 0), np.float32)

    first, later = (agreement._drawable(logits, found[phase])[0] for phase in ("prefill", "decode"))

    assert list(np.flatnonzero(np.isinf(first))) == [COMMA, NEWLINE, SIZE]
    assert list(np.flatnonzero(np.isinf(later))) == [NEWLINE, SIZE]
