import dataclasses
import json
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import synthetic
import toy
from commands import aot as command
from commands import built
from oracles import records

import aot
from aot import digest
from aot.bundle import attachments, store, weight_writer
from aot.bundle import weights as layout
from aot.bundle.index.records import ArgumentRecord
from aot.bundle.writer import Writer
from aot.cli import main
from aot.errors import BundleError, InputError
from aot.golden import agreement, exercise, expected
from aot.golden import replay as golden
from aot.runtime import execute
from aot.runtime.device.client import numpy_dtype
from aot.runtime.fitting import fit

Weights = dict[str, Any]


@pytest.fixture(scope="module")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("toy")
    return built(toy.manifest(home, programs=2), home / "bundle")


def document(bundle: Path) -> Any:
    return json.loads(store.open(bundle).attachment("golden") or b"")


def replayed(bundle: Path, changed: Any) -> tuple[golden.Replayed, ...]:
    return golden.replay_golden(store.open(bundle), digest.canonical_json(changed))


def recorded(made: Any, key: str, phase: str) -> Any:
    return next(e["outputs"] for e in made["entries"] if (e["key"], e["phase"]) == (key, phase))


def with_weights(bundle: Path, destination: Path, change: Callable[[Weights], None]) -> Path:
    """The bundle with other weights and its old golden outputs."""
    old = store.open(bundle)
    arrays: Weights = {}
    for blob in old.index.weights.blobs:
        view = old.map(blob.digest, blob.bytes)
        for path, (kind, shape, offset) in layout.tensor_table(view, "").items():
            arrays[path] = np.frombuffer(view, numpy_dtype(kind), math.prod(shape), offset).reshape(shape).copy()
    change(arrays)
    with Writer.stage(destination) as writer:
        writer.adopt(old)
        plan = layout.plan({path: (array.dtype.name, array.shape) for path, array in arrays.items()})
        index = dataclasses.replace(old.index, weights=weight_writer.write_tensors(writer, plan, arrays.items()))
        writer.publish(index, attachments={"golden": old.attachment("golden") or b""})
    return destination


def split_mix(position: int, name: str) -> int:
    """The finalizer of SplitMix64 in Python's integers."""
    mask = (1 << 64) - 1
    z = ((position + 1) * 0x9E3779B97F4A7C15 + zlib.crc32(name.encode())) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_inputs_follow_from_name_and_position_alone():
    tokens = exercise.exercise_values("tokens", ArgumentRecord("a", "int32", (2, 3), (None, None)), 1000)
    floats = exercise.exercise_values("x", ArgumentRecord("a", "float32", (5,), (None,)), 1000)

    assert tokens.tolist() == [[split_mix(3 * row + i, "tokens") % 1000 for i in range(3)] for row in range(2)]
    assert floats.tolist() == [(split_mix(i, "x") >> 40) / 2**23 - 1 for i in range(5)]


@pytest.mark.parametrize("kind", expected._DTYPES)
def test_inputs_of_every_dtype_stay_in_its_range(kind):
    made = exercise.exercise_values("x", ArgumentRecord("a", kind, (64,), (None,)), 1 << 40)

    assert str(made.dtype) == kind
    assert np.isfinite(made.astype(np.float64)).all()
    assert len(np.unique(made)) > 1


def test_a_bundle_records_every_entry_that_this_machine_runs(tiny_bundle):
    made = document(tiny_bundle)

    index = store.open(tiny_bundle).index
    assert [(e["key"], e["phase"]) for e in made["entries"]] == [
        (index.combos[e.combo].key, e.phase) for e in index.entries
    ]
    assert made["not_recorded"] == []
    assert {e["tolerance"] for e in made["entries"]} == {golden.TOLERANCES["float32"]}


def test_the_same_machine_gives_the_same_bits_again(tiny_bundle, capsys):
    code = main.run(["verify", str(tiny_bundle), "--run", "--json"])

    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert list(found) == ["digest", "blobs", "signed", "provenance", "golden"]
    assert {entry["verdict"] for entry in found["golden"]["entries"]} == {"reproduced"}
    assert found["golden"]["largest_difference"] == 0


def test_recording_and_replaying_run_each_entry_once(tiny_bundle, monkeypatch):
    bundle, ran, run = store.open(tiny_bundle), [], execute.Executor.run

    def counted(self: Any, entry: Any, *rest: Any) -> Any:
        ran.append((entry.combo_key, entry.phase))
        return run(self, entry, *rest)

    monkeypatch.setattr(execute.Executor, "run", counted)
    golden.record_golden(bundle)
    golden.replay_golden(bundle)

    names = sorted((e["key"], e["phase"]) for e in document(tiny_bundle)["entries"])
    assert sorted(ran[:14]) == sorted(ran[14:]) == names


def unnamed(entry):
    return {name: value for name, value in entry.items() if name not in ("key", "phase")}


def test_entries_that_are_made_of_the_same_run_once_and_are_all_recorded(tiny_bundle):
    bundle, ran = store.open(tiny_bundle), []
    index = bundle.index
    other = dataclasses.replace(index.combos[0], key="0" * 64)
    twins = tuple(dataclasses.replace(e, combo=len(index.combos)) for e in index.entries if e.combo == 0)
    grown = dataclasses.replace(index, combos=(*index.combos, other), entries=(*index.entries, *twins))

    found = json.loads(
        golden.record_golden(dataclasses.replace(bundle, index=grown), made=lambda *told: ran.append(told))
    )

    assert len(ran) == len(index.entries)
    assert [unnamed(e) for e in found["entries"] if e["key"] == other.key] == [
        unnamed(e) for e in found["entries"] if e["key"] == index.combos[0].key
    ]


def test_an_entry_gives_the_same_whatever_ran_before_it(tiny_bundle):
    bundle = store.open(tiny_bundle)
    wanted = [unnamed(entry) for entry in json.loads(golden.record_golden(bundle) or b"")["entries"]]
    exercised = exercise.Exercise(bundle)
    found = [json.loads(golden._recorded(exercised, e)) for e in (*exercised.entries, *exercised.entries[::-1])]

    assert found == [*wanted, *wanted[::-1]]


def test_entries_that_are_kept_do_not_run_and_leave_the_attachment_as_it_is(tiny_bundle):
    bundle, made = store.open(tiny_bundle), []
    parts = [digest.canonical_json(unnamed(entry)) for entry in document(tiny_bundle)["entries"]]
    found = golden.record_golden(bundle, dict(list(enumerate(parts))[::2]), lambda *told: made.append(told))

    assert found == bundle.attachment("golden")
    assert sorted((position, data) for position, _, data in made) == list(enumerate(parts))[1::2]


def test_entries_whose_prefill_is_missing_start_from_zeros(tiny_bundle):
    index = store.open(tiny_bundle).index
    alone = tuple(entry for entry in index.entries if entry.phase != "prefill")
    bundle = dataclasses.replace(store.open(tiny_bundle), index=dataclasses.replace(index, entries=alone))
    found = golden.replay_golden(bundle, golden.record_golden(bundle))

    assert [(entry.verdict, entry.phase) for entry in found] == [("reproduced", entry.phase) for entry in alone]


def spelled(bundle: Path, index: Any) -> list[bytes]:
    """The factors of each entry of a bundle with another index."""
    found = golden.golden_factors(dataclasses.replace(store.open(bundle), index=index))
    return [digest.canonical_json(found[i]) for i in range(len(index.entries))]


def test_other_buckets_leave_the_factors_of_an_entry_as_they_are(tiny_bundle):
    index = store.open(tiny_bundle).index
    few = [entry for entry in index.entries if entry.combo < 2]  # of one row
    wide, narrow = spelled(tiny_bundle, index), spelled(tiny_bundle, dataclasses.replace(index, entries=tuple(few)))

    assert len(set(wide)) == 14
    assert narrow == wide[: len(few)]


def changed(index: Any, name: str) -> Any:
    """The index with another number in one place."""
    generation, weights, programs = index.generation, index.weights, list(index.programs)
    if name == "vocabulary":
        return dataclasses.replace(index, generation=dataclasses.replace(generation, vocab_size=17))
    if name == "weights":
        blobs = (dataclasses.replace(weights.blobs[0], digest=digest.digest_of(b"other")),)
        return dataclasses.replace(index, weights=dataclasses.replace(weights, blobs=blobs))
    chain = next(c for e in index.entries if e.combo == 0 for c in e.chains if e.phase == "prefill")
    for position in [p for p, _ in chain.calls] if chain.platform == "cpu" else []:
        programs[position] = _other(programs[position], name)
    return dataclasses.replace(index, programs=tuple(programs))


def _other(program: Any, name: str) -> Any:
    if name == "program":
        return dataclasses.replace(program, digest=digest.digest_of(program.digest.encode()))
    (executable,) = program.executables
    return dataclasses.replace(
        program, executables=(dataclasses.replace(executable, digest=digest.digest_of(executable.digest.encode())),)
    )


@pytest.mark.parametrize("name", ["vocabulary", "weights", "program", "executable"])
def test_all_that_an_entry_is_made_of_is_a_factor_of_it_and_of_what_continues_it(tiny_bundle, name):
    index = store.open(tiny_bundle).index
    before, after = spelled(tiny_bundle, index), spelled(tiny_bundle, changed(index, name))
    same = {(e.combo, e.phase) for e, a, b in zip(index.entries, before, after, strict=True) if a == b}

    others = {(combo, phase) for combo in (2, 3) for phase in ("prefill", "decode", "fork/4")}
    assert {(0, "prefill"), (0, "decode"), (0, "fork/1"), (2, "fork/1")}.isdisjoint(same)
    assert same & others == (set() if name in ("vocabulary", "weights") else others)


def test_golden_outputs_are_those_of_the_reference_implementation(tiny_bundle):
    oracle = {tuple(row.ids): row for row in records.read("tiny").rows("golden")}
    bundle = store.open(tiny_bundle)
    made = document(tiny_bundle)
    worst = 0.0
    for entry in exercise.Exercise(bundle).entries:
        if entry.phase != "decode":
            continue
        prefill = next(e for e in exercise.Exercise(bundle).entries if (e.combo, e.phase) == (entry.combo, "prefill"))
        given = exercise.exercise_inputs(prefill)
        first, after = recorded(made, entry.combo_key, "prefill"), recorded(made, entry.combo_key, "decode")
        steps = after["steps"]["values"][0]
        for row, length in enumerate(given["lengths"]):
            tokens = [first["token"]["values"][row], *after["tokens"]["values"][row * steps : (row + 1) * steps]]
            logprobs = [first["logprob"]["values"][row], *after["logprobs"]["values"][row * steps : (row + 1) * steps]]
            theirs = oracle[tuple(given["tokens"][row, :length].tolist())]
            assert tokens == theirs.tokens
            wanted = np.array(theirs.logprobs)
            worst = max(worst, float((np.abs(wanted - logprobs) / np.maximum(1, np.abs(wanted))).max()))

    assert worst < golden.TOLERANCES["float32"] / 8


def test_half_of_the_rows_are_shorter(tiny_bundle):
    prefills = [e for e in exercise.Exercise(store.open(tiny_bundle)).entries if e.phase == "prefill"]

    assert [exercise.exercise_inputs(e)["lengths"].tolist() for e in prefills] == [
        [32],
        [64],
        [32, 16] * 2,
        [64, 32] * 2,
    ]


def test_changed_weights_are_not_reproduced(tiny_bundle, tmp_path, capsys):
    def change(arrays: Weights) -> None:
        arrays["layers/2/mlp/down_proj"] *= 1.05

    code = main.run(["verify", str(with_weights(tiny_bundle, tmp_path / "b", change)), "--run", "--json"])

    out, err = capsys.readouterr()
    found = json.loads(out)["golden"]
    assert (code, err) == (6, "")
    assert {entry["verdict"] for entry in found["entries"]} == {"differs"}
    assert found["largest_difference"] > golden.TOLERANCES["float32"]


def blind(arrays: Weights) -> None:
    arrays["layers/1/mlp/down_proj"][0] = math.nan


def test_golden_outputs_that_are_not_finite_are_none(tiny_bundle, tmp_path):
    bundle = with_weights(tiny_bundle, tmp_path / "b", blind)

    with pytest.raises(InputError, match=r"^golden outputs: prefill, combo 66f0943a278c…: output logprob: nan at 0"):
        golden.record_golden(store.open(bundle))


def test_nan_is_no_reproduction_of_nan(tiny_bundle, tmp_path, capsys):
    made = document(tiny_bundle)
    for entry in made["entries"]:
        for name, output in entry["outputs"].items():
            if name.startswith("logprob"):
                output["values"] = ["nan"] * len(output["values"])
            elif name.startswith("token"):
                output["values"] = [2047] * len(output["values"])
    bundle = with_weights(tiny_bundle, tmp_path / "b", blind)
    attachments.attach(bundle, "golden", digest.canonical_json(made))

    code = main.run(["verify", str(bundle), "--run", "--json"])

    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["golden"]
    assert code == 6
    assert {entry["verdict"] for entry in found["entries"]} == {"differs"}
    assert all(entry["cause"].startswith("output logprob") for entry in found["entries"])
    assert "nan at 0" in found["entries"][0]["cause"]


def test_nan_beside_the_recorded_sample_is_found():
    array = np.zeros(5000, np.float32)
    array[1] = math.nan
    assert 1 not in expected.kept_positions(array.size)

    assert expected.unsound_output("y", array) == "output y: nan at 1 (1 such)"
    assert agreement._nan({"y": array}) == "output y: nan at 1 (1 such) here"
    assert expected.unsound_output("y", np.array([math.inf], ml_dtypes.bfloat16)) == "output y: inf at 0 (1 such)"
    assert expected.unsound_output("y", np.array([math.inf]), finite=False) == ""
    assert expected.unsound_output("y", np.array([7])) == ""


def test_a_request_that_meets_nan_is_an_error_by_name_and_prints_nothing(tiny_bundle, tmp_path, refused):
    bundle = with_weights(tiny_bundle, tmp_path / "b", blind)

    with aot.load(bundle) as model:
        for ask in (model.generate, lambda prompt: list(model.stream(prompt))):
            with pytest.raises(BundleError, match="gave no finite logits for prompt 0 at token 0"):
                ask("def main(")
    assert "the log-probability is nan" in refused(5, "run", bundle, "--prompt", "x")


def test_a_build_whose_golden_outputs_are_not_finite_stops_and_publishes_nothing(tmp_path):
    manifest = toy.manifest(tmp_path / "home", programs=3, value=10**18)
    done = command("build", manifest, "-o", tmp_path / "bundle")

    assert (done.code, done.out) == (2, "")
    assert "golden outputs: scale, combo " in done.err.splitlines()[-1]
    assert "inf at 0 (4 such); " in done.err.splitlines()[-1]
    assert not (tmp_path / "bundle").exists()


def rare(made: Any, bundle: Path) -> tuple[str, int, int]:
    """A key, a token that the second decode step or a later one gave, and a lower id that occurs nowhere."""
    seen = {
        value
        for e in made["entries"]
        for name in ("token", "tokens")
        if name in e["outputs"]
        for value in e["outputs"][name]["values"]
    }
    firsts = {v for e in made["entries"] if "token" in e["outputs"] for v in e["outputs"]["token"]["values"]}
    fed = {int(t) for e in exercise.Exercise(store.open(bundle)).entries for t in _tokens(e)}
    for entry in made["entries"]:
        if entry["phase"] == "decode":
            for token in entry["outputs"]["tokens"]["values"][1:]:
                if token not in firsts | fed:
                    for free in range(3, token):
                        if free not in seen | fed:
                            return entry["key"], token, free
    raise AssertionError("the tiny model gives no such token")


def _run(bundle: Path, key: str) -> Any:
    made = exercise.Exercise(store.open(bundle))
    return made.run(next(e for e in made.entries if (e.combo_key, e.phase) == (key, "decode")))


def _tokens(entry: Any) -> Any:
    return exercise.exercise_inputs(entry)["tokens"].reshape(-1) if entry.phase == "prefill" else ()


def test_where_two_tokens_tie_another_machine_may_draw_the_other_one(tiny_bundle, tmp_path):
    key, token, free = rare(document(tiny_bundle), tiny_bundle)

    def tie(arrays: Weights) -> None:
        arrays["embed/tokens"][free] = arrays["embed/tokens"][token]

    def untie(arrays: Weights) -> None:
        arrays["embed/tokens"][token] *= 1 + 1e-5

    tied = with_weights(tiny_bundle, tmp_path / "a", tie)
    untied = with_weights(tied, tmp_path / "b", untie)
    made = golden.record_golden(store.open(tied))
    found = golden.replay_golden(store.open(untied), made)

    drawn = [_run(bundle, key)[0]["tokens"].reshape(-1) for bundle in (tied, untied)]
    assert [free in tokens for tokens in drawn] == [True, False]
    assert [token in tokens for tokens in drawn] == [False, True]
    assert {(entry.verdict, entry.cause) for entry in found} == {("reproduced", "")}
    assert 0 < max(entry.difference or 0 for entry in found) < 1e-4


def test_another_token_of_the_same_logprob_is_no_tie(tiny_bundle, tmp_path):
    key, token, free = rare(document(tiny_bundle), tiny_bundle)

    def swap(arrays: Weights) -> None:
        arrays["embed/tokens"][[token, free]] = arrays["embed/tokens"][[free, token]]

    found = {
        (e.combo_key, e.phase): e
        for e in golden.replay_golden(store.open(with_weights(tiny_bundle, tmp_path / "b", swap)))
    }

    assert found[key, "decode"].verdict == "differs"
    assert f"{token} was recorded, another is better here" in found[key, "decode"].cause
    assert found[key, "prefill"].verdict == "reproduced"


@pytest.mark.parametrize(("off", "verdict"), [(0.0002, "reproduced"), (0.01, "differs"), (math.nan, "differs")])
def test_a_logprob_may_be_off_by_the_tolerance_and_no_more(tiny_bundle, off, verdict):
    made = document(tiny_bundle)
    (values,) = (e["outputs"]["logprobs"]["values"] for e in made["entries"][1:2])
    values[3] = "nan" if math.isnan(off) else values[3] + off

    found = replayed(tiny_bundle, made)

    assert [entry.verdict for entry in found] == ["reproduced", verdict, *["reproduced"] * (len(found) - 2)]
    if not math.isnan(off):
        assert found[1].difference == pytest.approx(off / max(1, abs(values[3])), rel=0.02)


def test_a_recorded_token_must_be_as_good_as_the_best_one_here(tiny_bundle):
    made = document(tiny_bundle)
    values = made["entries"][0]["outputs"]["token"]["values"]
    values[0] = (values[0] + 1) % 2048

    found = replayed(tiny_bundle, made)

    assert found[0].verdict == "differs"
    assert "another is better here" in found[0].cause


def test_what_does_not_run_here_is_said_and_is_exit_4(tiny_bundle, monkeypatch, capsys):
    monkeypatch.setattr(fit, "jaxlib_version", lambda: "9.9.9")

    code = main.run(["verify", str(tiny_bundle), "--run", "--json"])

    found = json.loads(capsys.readouterr().out)["golden"]
    assert code == 4
    assert {entry["verdict"] for entry in found["entries"]} == {"not run"}
    assert all("9.9.9" in entry["cause"] for entry in found["entries"])
    assert found["largest_difference"] is None


def test_a_model_of_ones_own_has_golden_outputs_of_its_phases(toy_bundle, capsys):
    made = document(toy_bundle)
    x = exercise.exercise_values("x", ArgumentRecord("x", "float32", (4,), (None,)), 2)
    weight = np.arange(4, dtype=np.float32)

    assert made["entries"][0]["outputs"]["y"]["values"] == ((x * weight) * weight + 1).tolist()
    assert main.run(["verify", str(toy_bundle), "--run"]) == 0
    assert "entries run here: 1, largest difference 0" in capsys.readouterr().out


def test_a_bundle_for_absent_devices_has_none_and_builds_all_the_same(tmp_path, refused, capfd):
    manifest = toy.manifest(tmp_path / "home")
    manifest.write_text(manifest.read_text().replace("[cpu]", "[tpu]\ntargets: []"))

    bundle = built(manifest, tmp_path / "bundle")

    assert sorted(store.open(bundle).attachments) == ["provenance"]
    assert "has no golden outputs to replay" in refused(2, "verify", bundle, "--run")


def test_golden_outputs_and_provenance_leave_the_digest_as_it_is(toy_bundle, tmp_path):
    bundle = store.open(toy_bundle)
    with Writer.stage(tmp_path / "bare") as writer:
        writer.adopt(bundle)
        found = writer.publish(bundle.index)

    assert sorted(bundle.attachments) == ["golden", "provenance"]
    assert found == bundle.digest


ARRAYS = [
    np.array([[1.5, math.nan], [math.inf, -math.inf]], np.float32),
    np.array([0.1, -3], ml_dtypes.bfloat16),
    np.array(7, np.int32),
    np.array([2**64 - 1], np.uint64),
    np.array([True, False]),
    np.arange(5000, dtype=np.float32).reshape(50, 100),
    np.zeros((0, 3), np.float32),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{list(a.shape)}")
def test_an_output_is_read_as_it_was_written(array):
    found = read({"y": expected.write_output(array, False)})["y"]

    assert (found.dtype, found.shape) == (str(array.dtype), array.shape)
    places = range(array.size) if found.positions is None else found.positions
    wanted = array.reshape(-1)[list(places)]
    assert len(found.values) == len(wanted) <= 256
    np.testing.assert_array_equal(found.values.astype(np.float64), wanted.astype(np.float64))


def test_a_large_output_is_sampled_from_its_first_to_its_last_value():
    places = expected.kept_positions(10**9)

    assert (len(places), places[0], places[-1]) == (64, 0, 10**9 - 1)
    assert max(np.diff(places)) < 10**9 / 20
    assert len({place % 1024 for place in places}) > 48


def read(outputs: Mapping[str, Any], **fields: Any) -> Any:
    made = {"key": "k", "phase": "p", "tolerance": 0.5, "outputs": outputs, **fields}
    data = digest.canonical_json({"version": 1, "entries": [made], "not_recorded": []})
    return expected.read_golden(data, "here")[0]["k", "p"].outputs


GOOD = {"dtype": "int32", "shape": [2], "values": [1, 2]}


@pytest.mark.parametrize(
    "bad",
    [
        {"dtype": "int33"},
        {"dtype": "object"},
        {"shape": [3]},
        {"shape": [-2]},
        {"shape": [2.0]},
        {"shape": [True, 2]},
        {"shape": [10**30]},
        {"values": [1, 2.5]},
        {"values": [1, True]},
        {"values": [1, 2**31]},
        {"values": [1, "nan"]},
        {"values": [1, [2]]},
        {"dtype": "float32", "values": [1.0, "zero"]},
        {"dtype": "float32", "values": [1.0, None]},
        {"positions": [0, 2]},
        {"positions": [0]},
        {"positions": [0, -1]},
        {"positions": None},
        {"more": 1},
    ],
    ids=str,
)
def test_an_output_that_nobody_writes_is_refused_in_a_line(bad):
    with pytest.raises(BundleError, match=r"^here: entries\[0\].*; fetch it again or rebuild$"):
        read({"y": GOOD | bad})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"version":2,"entries":[],"not_recorded":[]}',
        b'{"version":1,"entries":[1],"not_recorded":[]}',
    ],
)
def test_a_document_that_nobody_writes_is_refused_in_a_line(data):
    with pytest.raises(BundleError, match=r"^here: .*; fetch it again or rebuild$"):
        expected.read_golden(data, "here")


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, 1e300])
def test_a_tolerance_that_would_let_anything_pass_is_refused(tolerance):
    with pytest.raises(BundleError, match="tolerance"):
        read({"y": GOOD}, tolerance=tolerance)


def test_golden_outputs_of_an_entry_that_the_bundle_lacks_are_a_fault(tmp_path, capsys):
    synthetic.write(tmp_path / "b")
    entry = {"key": "0" * 64, "phase": "prefill", "tolerance": 0.5, "outputs": {}}
    data = digest.canonical_json({"version": 1, "entries": [entry], "not_recorded": []})
    attachments.attach(tmp_path / "b", "golden", data)

    code = main.run(["verify", str(tmp_path / "b"), "--run"])

    out, err = capsys.readouterr()
    assert (code, out) == (5, "")
    assert "golden outputs: no entry 000000000000… has the phase 'prefill'" in err


def test_tokens_of_which_only_a_sample_was_kept_are_no_golden_outputs(tiny_bundle):
    made = document(tiny_bundle)
    tokens = made["entries"][1]["outputs"]["tokens"]
    tokens["positions"], tokens["values"] = [0], tokens["values"][:1]

    found = replayed(tiny_bundle, made)

    assert (found[1].verdict, found[1].cause) == ("differs", "output tokens: only a sample was recorded")
