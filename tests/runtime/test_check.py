"""What this machine makes of a bundle: the verdicts of `aot check`, and what the policies do with them."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Finished

import aot
from aot import digest, isa
from aot.bundle import store
from aot.bundle.index import codec, records
from aot.bundle.index.records import ExecutableRecord, Index
from aot.cli import main
from aot.errors import MachineError
from aot.runtime.device import compilations
from aot.runtime.fitting import entries, fit

AVX2 = isa.Machine("x86_64", frozenset(isa.find_baseline("avx2").kernel))
WITHOUT = isa.Machine("x86_64", AVX2.features - {"avx2", "fma"})
PROMPT = "def main("

Run = Callable[..., Finished]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process, where the machine can be changed."""

    def command(*arguments: object) -> Finished:
        capfd.readouterr()
        code = main.run([str(argument) for argument in arguments])
        return Finished(code, *capfd.readouterr())

    return command


def pretend(monkeypatch: pytest.MonkeyPatch, machine: isa.Machine) -> None:
    monkeypatch.setattr(isa, "this_machine", lambda: machine)


def verdicts(done: Finished) -> set[tuple[str, str]]:
    return {(entry["verdict"], entry["cause"]) for entry in done.document["entries"]}


def rewritten(bundle: Path, change: Callable[[Index], Index], destination: Path) -> Path:
    """A copy of a bundle that holds what the changed index still names."""
    from aot.bundle.writer import Writer

    opened = store.open(bundle)
    index = change(opened.index)
    with Writer.stage(destination) as writer:
        for _, _, name, size in records.stored_blobs(index):
            writer.add(opened.read(name, size))
        writer.publish(codec.decode(codec.encode(index), "changed"))
    return destination


def test_every_entry_is_ready_where_it_was_built_for(tiny_bundle: Path, run: Run, monkeypatch: Any) -> None:
    pretend(monkeypatch, AVX2)
    index = store.open(tiny_bundle).index
    done = run("check", tiny_bundle, "--json")

    assert done.code == 0
    assert verdicts(done) == {("ready", "")}
    assert [(e["key"], e["phase"]) for e in done.document["entries"]] == [
        (index.combos[entry.combo].key, entry.phase) for entry in index.entries
    ]
    assert {frozenset(entry) for entry in done.document["entries"]} == {frozenset(("key", "phase", "verdict", "cause"))}


def test_a_machine_that_lacks_features_would_compile_and_is_told_which(
    tiny_bundle: Path, run: Run, monkeypatch: Any
) -> None:
    pretend(monkeypatch, WITHOUT)
    done = run("check", tiny_bundle, "--json")

    assert done.code == 4
    assert {verdict for verdict, _ in verdicts(done)} == {"compiles"}
    assert all(cause.endswith("built for cpu avx2, this cpu lacks avx2, fma") for _, cause in verdicts(done))


def test_another_architecture_is_the_cause_and_not_each_of_its_features(
    tiny_bundle: Path, run: Run, monkeypatch: Any
) -> None:
    pretend(monkeypatch, isa.Machine("aarch64", frozenset()))
    done = run("check", tiny_bundle, "--json")

    assert done.code == 4
    assert all(cause.endswith("built for x86_64, this machine is aarch64") for _, cause in verdicts(done))


def test_another_jaxlib_would_compile(tiny_bundle: Path, run: Run, monkeypatch: Any) -> None:
    built = fit.jaxlib_version()
    monkeypatch.setattr(fit, "jaxlib_version", lambda: "0.11.9")
    done = run("check", tiny_bundle, "--json")

    assert done.code == 4
    assert {verdict for verdict, _ in verdicts(done)} == {"compiles"}
    assert all(cause.endswith(f"built by jaxlib {built}, this is 0.11.9") for _, cause in verdicts(done))


def test_check_for_people_shows_verdict_and_cause(tiny_bundle: Path, run: Run, monkeypatch: Any) -> None:
    pretend(monkeypatch, WITHOUT)
    done = run("check", tiny_bundle)

    assert done.code == 4
    assert done.out.count("compiles") == len(store.open(tiny_bundle).index.entries)
    assert "lacks avx2, fma" in " ".join(done.out.split())


def test_verdicts_need_no_weights(tiny_bundle: Path, run: Run, tmp_path: Path) -> None:
    expected = run("check", tiny_bundle, "--json")
    hollow = tmp_path / "hollow"
    shutil.copytree(tiny_bundle, hollow)
    for blob in store.open(hollow).index.weights.blobs:
        with (hollow / store.BLOBS / digest.hex_of(blob.digest)).open("wb") as stream:
            stream.truncate(blob.bytes)

    assert run("check", hollow, "--json") == expected
    assert run("verify", hollow).code == 5


@pytest.mark.parametrize("command", ["check", "inspect"])
@pytest.mark.parametrize("role", ["executable", "program", "tokenizer"])
def test_a_flipped_bit_in_what_would_be_loaded_is_named(
    tiny_bundle: Path, run: Run, tmp_path: Path, command: str, role: str
) -> None:
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))
    name = next(name for _, found, name, _ in records.stored_blobs(store.open(copy).index) if found == role)
    blob = copy / store.BLOBS / digest.hex_of(name)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    done = run(command, copy)

    assert (done.code, done.out) == (5, "")
    assert f"blob {name[:19]}… is damaged" in done.err


def test_a_bundle_for_another_platform_is_unusable(tiny_bundle: Path, run: Run, tmp_path: Path) -> None:
    def only_tpu(index: Index) -> Index:
        places = [i for i, program in enumerate(index.programs) if program.platform == "tpu"]

        def chain(record: records.ChainRecord) -> records.ChainRecord:
            return dataclasses.replace(record, calls=tuple((places.index(p), b) for p, b in record.calls))

        kept = tuple(
            dataclasses.replace(entry, chains=tuple(chain(c) for c in entry.chains if c.platform == "tpu"))
            for entry in index.entries
        )
        return dataclasses.replace(index, programs=tuple(index.programs[i] for i in places), entries=kept)

    bundle = rewritten(tiny_bundle, only_tpu, tmp_path / "tpu")
    done = run("check", bundle, "--json")
    refused = run("run", bundle, "--prompt", PROMPT, "--policy", "compile")

    cause = "no program for cpu, only for tpu; rebuild with platforms: [cpu]"
    assert (done.code, verdicts(done)) == (4, {("unusable", cause)})
    assert (refused.code, refused.out) == (4, "")
    assert cause in refused.err
    assert len(refused.err.splitlines()) == 1


def test_without_targets_every_entry_compiles(tiny_bundle: Path, run: Run, tmp_path: Path) -> None:
    def bare(index: Index) -> Index:
        return dataclasses.replace(
            index, programs=tuple(dataclasses.replace(p, executables=()) for p in index.programs)
        )

    done = run("check", rewritten(tiny_bundle, bare, tmp_path / "bare"), "--json")

    assert done.code == 4
    assert {verdict for verdict, _ in verdicts(done)} == {"compiles"}
    assert all(cause.endswith("no executable for cpu was built") for _, cause in verdicts(done))


def test_an_entry_is_as_bad_as_the_worst_of_its_programs(tiny_bundle: Path, run: Run, tmp_path: Path) -> None:
    def one_bare(index: Index) -> Index:
        programs = [
            dataclasses.replace(p, executables=()) if p.name == "begin" else p
            for p in index.programs
        ]  # fmt: skip
        return dataclasses.replace(index, programs=tuple(programs))

    done = run("check", rewritten(tiny_bundle, one_bare, tmp_path / "partly"), "--json")
    by_phase = {entry["phase"].partition("/")[0]: entry["verdict"] for entry in done.document["entries"]}

    assert done.code == 4
    assert by_phase == {"prefill": "ready", "decode": "compiles", "fork": "ready"}


def built_for(name: str, example: ExecutableRecord, **changes: Any) -> ExecutableRecord:
    baseline = isa.find_baseline(name)
    requires = {"machine": baseline.machine, "features": baseline.kernel}
    return dataclasses.replace(example, target={"cpu": {"isa": name, "threads": 8}}, requires=requires, **changes)


def test_of_several_targets_the_richest_that_the_machine_has_is_chosen(tiny_bundle: Path, monkeypatch: Any) -> None:
    program = next(p for p in store.open(tiny_bundle).index.programs if p.executables)
    both = tuple(built_for(name, program.executables[0]) for name in ("avx2", "avx512"))
    chosen = {}
    for name in ("avx2", "avx512"):
        pretend(monkeypatch, isa.Machine("x86_64", frozenset(isa.find_baseline(name).kernel)))
        orders = (both, both[::-1])
        chosen[name] = {
            entries.fitting_executable(dataclasses.replace(program, executables=e)).target["cpu"]["isa"] for e in orders
        }

    assert chosen == {"avx2": {"avx2"}, "avx512": {"avx512"}}


def test_causes_name_each_target_that_does_not_fit(tiny_bundle: Path, monkeypatch: Any) -> None:
    pretend(monkeypatch, AVX2)
    program = next(p for p in store.open(tiny_bundle).index.programs if p.executables)
    old = [built_for(name, program.executables[0], compiler={"jaxlib": "0.0.1"}) for name in ("avx2", "avx512")]

    assert entries.misfit_of_program(dataclasses.replace(program, executables=tuple(old))) == (
        f"built by jaxlib 0.0.1, this is {fit.jaxlib_version()}; "
        "built for cpu avx512, this cpu lacks avx512bw, avx512cd, avx512dq, avx512f, avx512vl"
    )


def test_strict_refuses_what_does_not_fit_and_compiles_nothing(tiny_bundle: Path, run: Run, monkeypatch: Any) -> None:
    pretend(monkeypatch, WITHOUT)
    before = compilations.count_compilations()
    done = run("run", tiny_bundle, "--prompt", PROMPT, "--json")
    with pytest.raises(MachineError, match=r"lacks avx2, fma; rebuild .*'compile'"):
        aot.load(tiny_bundle)

    assert (done.code, done.out) == (4, "")
    assert len(done.err.splitlines()) == 1
    assert compilations.count_compilations() == before


def test_policy_compile_gives_the_same_tokens_and_says_that_it_compiles(
    tiny_bundle: Path, run: Run, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    expected = aot.load(tiny_bundle).generate(PROMPT).token_ids
    monkeypatch.setattr(fit, "jaxlib_version", lambda: "0.11.9")
    before = compilations.count_compilations()
    with caplog.at_level(logging.WARNING, "aot"):
        done = run("run", tiny_bundle, "--prompt", PROMPT, "--policy", "compile", "--json")

    assert done.code == 0, done.err
    assert json.loads(done.out)["results"][0]["token_ids"] == list(expected)
    assert json.loads(done.out)["compilations"] >= compilations.count_compilations() - before > 0
    assert any("compiling program begin" in message for message in caplog.messages)
    assert all("built by jaxlib" in message for message in caplog.messages)
