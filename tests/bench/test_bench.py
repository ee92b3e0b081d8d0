"""`aot bench` from end to end, on the tiny bundle."""

import dataclasses
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic
from commands import aot, heedful

from aot import digest
from aot.bench import measuring, process
from aot.bundle import store
from aot.bundle.index.records import Index
from aot.bundle.writer import Writer
from aot.errors import AotError
from aot.runtime.fitting import fit

LAYERS = 4  # of the tiny model


@pytest.fixture(scope="module")
def measured(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The document of one round, and the plot."""
    home = tmp_path_factory.mktemp("bench")
    plot = home / "plot.svg"
    # A copy, for the pages of one that another process of the tests has mapped are shared as they are.
    bundle = shutil.copytree(tiny_bundle, home / "bundle")
    sizes = ("--rounds", 1, "--prompt-tokens", 20, "--new-tokens", 40)
    done = aot("bench", bundle, *sizes, "--json", "--plot", plot)
    assert done.code == 0, done.err
    return done.document, plot.read_text()


@pytest.fixture
def only(measured: tuple[dict[str, Any], str]) -> dict[str, Any]:
    """The document of the round."""
    (document,) = measured[0]["rounds"]
    return document


def test_the_way_to_the_first_token_goes_by_import_and_open_and_on_to_the_sixteenth(only: dict[str, Any]) -> None:
    marks = [only[name] for name in ("import", "open", "first_token", "sixteen")]

    assert marks[0] > 0
    assert marks == sorted(marks)
    assert len(only["tokens"]) == 16


def test_serving_compiles_nothing(only: dict[str, Any]) -> None:
    assert only["compilations"] == 0


def test_the_tokens_are_those_of_a_greedy_run(only: dict[str, Any], tiny_bundle: Path) -> None:
    record = store.open(tiny_bundle).index.generation
    assert record is not None
    ids = ",".join(map(str, measuring.prompt_ids(20, record.vocab_size)))
    done = aot("run", tiny_bundle, "--prompt-ids", ids, "--max-new-tokens", 16, "--json")
    (result,) = done.document["results"]

    assert only["tokens"][: len(result["token_ids"])] == result["token_ids"]


def test_figures_are_those_of_the_rounds(measured: tuple[dict[str, Any], str], only: dict[str, Any]) -> None:
    figures = measured[0]["figures"]

    assert figures["first_token"] == {"median": only["first_token"], "low": only["first_token"]} | {
        "high": only["first_token"],
        "unit": "s",
    }
    assert figures["decode"]["median"] == 1 / statistics.median(only["decode"])
    assert figures["decode_share"]["median"] == pytest.approx(
        100 * only["weight_bytes"] / statistics.median(only["decode"]) / measured[0]["bandwidth"]
    )


def test_the_document_says_what_was_measured_and_where(measured: tuple[dict[str, Any], str]) -> None:
    found = measured[0]

    assert set(found) == {
        "machine", "versions", "bundle", "request", "bandwidth", "figures", "rounds",
    }  # fmt: skip
    assert found["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert found["request"] == {"prompt_tokens": 20, "new_tokens": 40}
    assert found["bundle"]["dtype"] == "float32"
    assert set(found["versions"]) == {"jax-aot", "jaxlib", "numpy"}


def test_every_executable_of_prefill_and_decode_is_loaded_and_called_twice(only: dict[str, Any]) -> None:
    found = [(each["phase"], each["name"], each["calls"]) for each in only["executables"]]

    assert found[0] == ("prefill", "embed", 1)
    assert found[-1] == ("decode", "draw", 1)
    for phase in ("prefill", "decode"):
        assert (phase, "block", LAYERS) in found
    assert all(each[part] > 0 for each in only["executables"] for part in ("load", "first", "second"))


def test_a_second_process_holds_the_weights_in_the_same_pages(only: dict[str, Any]) -> None:
    memory = only["memory"]

    # Where the machine has other processes of jaxlib, the weights are all that the second one adds.
    assert memory["beside"]["shared"] > memory["alone"]["shared"] + 0.9 * only["weight_bytes"]
    assert memory["added"] == pytest.approx(
        memory["second"]["proportional"] + memory["beside"]["proportional"] - memory["alone"]["proportional"]
    )


def test_peak_memory_counts_the_weights_once(only: dict[str, Any]) -> None:
    assert only["peak_memory"] < only["memory"]["alone"]["resident"] + only["weight_bytes"]


def test_the_plot_names_the_bundle_and_the_request(measured: tuple[dict[str, Any], str]) -> None:
    texts = [element.text or "" for element in ET.fromstring(measured[1]).iter("{http://www.w3.org/2000/svg}text")]

    assert "aot bench bundle" in texts
    assert "20 prompt tokens, 40 new ones, float32, 4.0 MiB of weights a token" in texts


Refused = Callable[..., str]


def test_a_request_that_no_entry_holds_is_refused_before_anything_runs(tiny_bundle: Path, refused: Refused) -> None:
    assert "500 tokens exceed the largest prefill bucket" in refused(3, "bench", tiny_bundle, "--prompt-tokens", 500)
    assert "exceed the largest max_length" in refused(3, "bench", tiny_bundle, "--new-tokens", 500)


def test_a_plot_of_another_kind_or_without_a_place_is_refused_before_anything_runs(
    tiny_bundle: Path, refused: Refused
) -> None:
    assert "must end in .svg, got '.png'" in refused(2, "bench", tiny_bundle, "--plot", "figure.png")
    assert "there is no directory nowhere" in refused(2, "bench", tiny_bundle, "--plot", "nowhere/figure.svg")


@pytest.fixture
def unprepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts at once, at whatever a cold machine costs."""
    monkeypatch.setattr(process, "_prepare", lambda contestant: None)


@pytest.mark.usefixtures("unprepared")
def test_what_a_measured_process_refuses_ends_with_its_exit_code(tmp_path: Path, refused: Refused) -> None:
    other, late, damaged = (tmp_path / name for name in ("other", "late", "damaged"))
    index = synthetic.index()
    executable = dataclasses.replace(index.programs[0].executables[0], requires={"machine": "s390x", "features": ()})
    program = dataclasses.replace(index.programs[0], executables=(executable,))
    written(other, dataclasses.replace(index, programs=(program,)))
    written(late, dataclasses.replace(index, programs=(program,), valid_until="2020-01-01"))
    synthetic.write(damaged, jaxlib=fit.jaxlib_version())
    synthetic.blob_file(damaged, digest.digest_of(synthetic.EXECUTABLE)).write_bytes(synthetic.EXECUTABLE[::-1])

    assert "no executable for this machine" in refused(4, "bench", other)
    assert "is damaged" in refused(5, "bench", damaged)
    assert "expired after 2020-01-01" in refused(7, "bench", late)


@pytest.mark.usefixtures("unprepared")
def test_a_process_that_dies_of_something_else_is_told_with_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic.write(tmp_path / "bundle")
    (tmp_path / "jaxlib.py").write_text("raise ValueError('why')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(AotError, match=r"no run of it succeeded: ValueError: why; try aot run"):
        measuring.measure_bundle(tmp_path / "bundle", measuring.BenchOptions(1, 1, 1, "once"))


def written(bundle: Path, index: Index) -> None:
    """Publishes an index of synthetic blobs."""
    with Writer.stage(bundle) as writer:
        for data in (synthetic.PROGRAM, synthetic.EXECUTABLE, synthetic.TOKENIZER, b"weights"):
            writer.add(data)
        writer.publish(index)


def test_a_bundle_without_a_language_model_is_refused(tmp_path: Path, refused: Refused) -> None:
    written(tmp_path / "bundle", dataclasses.replace(synthetic.index(), generation=None))

    assert "holds no language model" in refused(2, "bench", tmp_path / "bundle")


@pytest.fixture
def under_way(tiny_bundle: Path) -> Iterator["subprocess.Popen[str]"]:
    """A bench as from a terminal: it leads the process group that Ctrl-C is sent to."""
    command = [sys.executable, "-m", "aot.cli.main", "bench", str(tiny_bundle), "--rounds", "50"]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **options, start_new_session=True, preexec_fn=heedful) as process:
        yield process
        process.kill()


def measured_processes(bundle: Path) -> list[int]:
    """Processes that the bench of a bundle started, the second ones of theirs included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if {"aot.bench.child", "aot.bench.second"} & set(words) and str(bundle) in words:
            found.append(int(path.parent.name))
    return found


def test_ctrl_c_leaves_no_process_behind(under_way: "subprocess.Popen[str]", tiny_bundle: Path) -> None:
    deadline = time.monotonic() + 60
    while not measured_processes(tiny_bundle):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(under_way.pid, signal.SIGINT)
    out, err = under_way.communicate(timeout=60)

    assert (under_way.returncode, out, err.splitlines()) == (130, "", ["interrupted"])
    deadline = time.monotonic() + 10  # a busy machine takes its time to let go of what was killed
    while left := measured_processes(tiny_bundle):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
