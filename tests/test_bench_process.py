"""Measuring processes in turn: what is reported of them, and that none is left behind."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aot.bench import process
from aot.bench.process import Contestant


def python(name: str, code: str, files: tuple[Path, ...] = (), memory: int = 0, **variables: str) -> Contestant:
    return Contestant(name, (sys.executable, "-I", "-S", "-c", code), variables, files, memory)


def one(contestant: Contestant) -> Any:
    (document,) = process.measure([contestant], 1)[contestant.name]
    return document


def test_each_round_runs_all_in_turn_and_begins_with_the_next() -> None:
    said: list[tuple[int, str]] = []
    contestants = [python(name, "print('{}')") for name in "abc"]
    process.measure(contestants, 4, lambda number, name: said.append((number, name)))

    assert said == [(number, name) for number, names in enumerate(("abc", "bca", "cab", "abc")) for name in names]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import sys; print('{}'); print('noise', file=sys.stderr); raise ValueError('why')", "ValueError: why"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("print('no document')", "exit code 0, and no document on stdout"),
        ("print(3)", "exit code 0, and no document on stdout"),
        ("import sys; print('warning', file=sys.stderr); print('{')", "warning"),
    ],
)
def test_a_contestant_that_fails_is_listed_with_its_last_line_and_others_go_on(code: str, error: str) -> None:
    found = process.measure([python("bad", code), python("good", "print('{}')")], 2)

    assert found["bad"] == [{"error": error}] * 2
    assert [set(document) for document in found["good"]] == [{"peak_memory"}] * 2


def test_a_command_that_does_not_exist_is_listed_with_the_reason() -> None:
    document = one(Contestant("none", ("/nowhere/to/be/found",), {}, (), 0))

    assert document == {"error": "/nowhere/to/be/found: No such file or directory"}


def test_the_document_is_the_last_line_on_stdout() -> None:
    document = one(python("talks", "print('hello'); print(); print('{\"first_token\": 2}'); print()"))

    assert document["first_token"] == 2


def test_a_contestant_reads_when_it_was_started_on_its_own_clock() -> None:
    code = "import os, time; print('{\"begin\": %s, \"seen\": %f}' % (os.environ['AOT_BENCH_START'], time.monotonic()))"
    before = time.monotonic()
    document = one(python("clock", code))

    assert before <= document["begin"] < document["seen"] < time.monotonic()


def test_a_contestant_has_its_own_variables_beside_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AOT_TEST_OURS", "1")
    code = "import json, os; print(json.dumps({n: os.environ[n] for n in ('AOT_TEST_OURS', 'AOT_TEST_ITS')}))"
    document = one(python("variables", code, AOT_TEST_ITS="2"))

    assert (document["AOT_TEST_OURS"], document["AOT_TEST_ITS"]) == ("1", "2")


def test_peak_memory_is_that_of_the_contestant_and_not_of_what_prepares_its_start() -> None:
    hungry = "held = b'x' * (600 << 20); del held; print('{}')"
    found = process.measure([python("hungry", hungry), python("modest", "print('{}')", memory=600 << 20)], 1)

    ours = int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line).split()[1])
    assert found["hungry"][0]["peak_memory"] > 600 << 20
    assert found["modest"][0]["peak_memory"] <= max(100 << 20, ours * 1024)


def test_a_contestant_may_know_its_peak_memory_better() -> None:
    assert one(python("knows", "print('{\"peak_memory\": 7}')"))["peak_memory"] == 7


def test_files_that_are_missing_are_left_to_the_contestant_to_report() -> None:
    code = "open('/nowhere/to/be/found')"

    assert "No such file" in one(python("reads", code, (Path("/nowhere/to/be/found"),)))["error"]


def test_nothing_that_a_contestant_started_outlives_it() -> None:
    code = (
        "import json, os, subprocess, sys; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']); "
        "print(json.dumps({'child': child.pid}))"
    )
    document = one(python("parent", code))

    deadline = time.monotonic() + 5
    while Path(f"/proc/{document['child']}/stat").exists() and not _is_zombie(document["child"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_contestant_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LIMIT", 0.5)

    assert one(python("hangs", "import time; time.sleep(99)")) == {"error": "killed by SIGKILL"}


def _is_zombie(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
