"""Measuring processes in turn: what is reported of them, and that none is left behind."""

import itertools
import signal
import subprocess
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
    ((_, document),) = process.measure_in_turn([contestant], 1)
    return document


def measured(contestants: list[Contestant], rounds: int = 1) -> dict[str, list[Any]]:
    """The documents of each contestant by name."""
    found: dict[str, list[Any]] = {each.name: [] for each in contestants}
    for name, document in process.measure_in_turn(contestants, rounds):
        found[name].append(document)
    return found


def test_each_round_runs_all_and_says_so_before() -> None:
    said: list[tuple[int, str]] = []
    contestants = [python(name, "print('{}')") for name in "abc"]
    names = [name for name, _ in process.measure_in_turn(contestants, 2, lambda *step: said.append(step))]

    assert [name for _, name in said] == names
    assert [number for number, _ in said] == [0] * 3 + [1] * 3
    assert sorted(names[:3]) == sorted(names[3:]) == ["a", "b", "c"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 10])
def test_in_as_many_rounds_as_contestants_each_has_each_place_once(count: int) -> None:
    rounds = [process.round_order(count, number) for number in range(count)]

    assert all(sorted(places) == list(range(count)) for places in (*rounds, *zip(*rounds, strict=True)))


@pytest.mark.parametrize("count", [2, 4, 10])
def test_in_as_many_rounds_as_an_even_number_of_contestants_each_follows_each_other_once(count: int) -> None:
    rounds = [process.round_order(count, number) for number in range(count)]
    pairs = [pair for places in rounds for pair in itertools.pairwise(places)]

    assert len(set(pairs)) == len(pairs) == count * (count - 1)


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
    found = measured([python("bad", code), python("good", "print('{}')")], 2)

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
    found = measured([python("hungry", hungry), python("modest", "print('{}')", memory=600 << 20)])

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

    assert _gone(document["child"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_that_was_started_outlives_who_started_it_however_that_ends(number: signal.Signals) -> None:
    code = """if True:
        import signal, sys
        from aot.bench import group
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        code = "import time; print(1, flush=True); time.sleep(99)"
        with group.running_group([sys.executable, "-c", code], stdout=-1) as p:
            p.stdout.readline()
            print(p.pid, flush=True)
            p.wait()
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        starter.send_signal(number)

    assert starter.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    assert _gone(child)


def test_a_contestant_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LIMIT", 0.5)

    assert one(python("hangs", "import time; time.sleep(99)")) == {"error": "killed by SIGKILL"}


def _gone(number: int) -> bool:
    """Whether a process ends in a moment."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False
