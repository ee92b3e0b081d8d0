"""Several processes that serve one mesh: they give what one gives, and end together."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import peer
import pytest
from peer import free_port

import aot as api
from aot.runtime.peers import link, meeting, processes

PROMPT = ("--prompt", "def main", "--temperature", "0.8", "--seed", "3")


@contextlib.contextmanager
def started(*commands: list[object]) -> Iterator[list[subprocess.Popen[str]]]:
    """Python processes, none of which outlives the block."""
    made = [
        subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command in commands
    ]
    try:
        yield made
    finally:
        for process in made:
            process.kill()
            process.communicate()


def answer(process: subprocess.Popen[str]) -> list[int]:
    """The next seed and tokens that a process prints, between what Gloo says there."""
    return next(json.loads(line) for line in process.stdout if re.match(r"\[\d", line))


def ended(process: subprocess.Popen[str], within: float = 120) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=within)
    return process.returncode, out, err


def peers(bundle: Path, *differing: dict[str, object]) -> list[list[object]]:
    """The commands of processes that serve a bundle, where they differ from each other."""
    address = f"127.0.0.1:{free_port()}"
    given = [
        {"bundle": bundle, "processes": 2, "process": i, "timeout": 60, "prompt": "def", **d}
        for i, d in enumerate(differing)
    ]
    return [
        [
            peer.__file__,
            g["bundle"],
            address,
            g["processes"],
            g["process"],
            g["timeout"],
            g["prompt"],
            *g.get("more", []),
        ]
        for g in given
    ]


def test_two_processes_give_the_tokens_of_one_device_and_compile_nothing(mesh_bundle, small_bundle):
    wanted = api.load(small_bundle).generate("def main", temperature=0.8, seed=3).token_ids
    shared = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2]
    commands = [
        ["-m", "aot.cli.main", "run", mesh_bundle, *PROMPT, "--json", *shared, "--process", process]
        for process in range(2)
    ]

    with started(*commands) as pair:
        (code, out, err), other = map(ended, pair)

    document = json.loads(out)
    assert (code, err) == (0, "")
    assert other == (0, "", "")
    assert ([result["token_ids"] for result in document["results"]], document["compilations"]) == ([wanted], 0)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_other_with_one_line(mesh_bundle, victim):
    commands = peers(mesh_bundle, {"more": ["forever"]}, {"more": ["forever"]})

    with started(*commands) as pair:
        tokens = [answer(process) for process in pair]
        pair[victim].send_signal(signal.SIGKILL)
        code, _, err = ended(pair[1 - victim], processes.GRACE + link.SILENCE)

    assert tokens[0] == tokens[1]  # of a seed that was drawn
    line = f"processes: process {victim} of 2 has ended or does not answer; start all of them again\n"
    assert code == 1
    assert err in ("PeerError " + line, line)  # raised, or where Gloo did not notice said by what watches


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_hangs_ends_the_other_in_bounded_time(mesh_bundle, victim):
    commands = peers(mesh_bundle, {"more": ["forever"]}, {"more": ["forever"]})

    with started(*commands) as pair:
        for process in pair:
            answer(process)
        pair[victim].send_signal(signal.SIGSTOP)
        code, _, err = ended(pair[1 - victim], 2 * processes.GRACE + link.SILENCE + 5)

    assert code == 1
    assert err.splitlines()[-1].endswith(
        f"processes: process {victim} of 2 has ended or does not answer; start all of them again"
    )


def coordinator_of(process: subprocess.Popen[str]) -> int:
    """The process id of the coordinator that process 0 started."""
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (directory / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == process.pid and b"aot.runtime.peers.coordinator" in (directory / "cmdline").read_bytes():
                return int(directory.name)
    raise AssertionError("no coordinator")


@pytest.mark.parametrize(
    ("number", "within"),
    [(signal.SIGKILL, processes.GRACE), pytest.param(signal.SIGSTOP, link.SILENCE, marks=pytest.mark.slow)],
)
def test_a_coordinator_that_is_gone_ends_all_processes_with_one_line(mesh_bundle, number, within):
    commands = peers(mesh_bundle, {"more": ["forever"]}, {"more": ["forever"]})

    with started(*commands) as pair:
        for process in pair:
            answer(process)
        victim = coordinator_of(pair[0])
        os.kill(victim, number)
        try:
            found = [ended(process, within + processes.GRACE + 5) for process in pair]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)

    line = "processes: the coordinator has ended or does not answer; start all of them again\n"
    for code, _, err in found:
        assert code == 1
        assert err in ("PeerError " + line, line)  # as above


@pytest.mark.parametrize(
    ("process", "line"),
    [
        (0, "PeerError processes: process 1 of 2 did not come within 1 s; start all of them\n"),
        (1, "PeerError processes: no coordinator at {address} within 1 s (Connection refused); "
            "start process 0, and give every process its address\n"),
    ],
)  # fmt: skip
def test_a_process_that_never_comes_is_told_in_time(mesh_bundle, process, line):
    (command,) = peers(mesh_bundle, {"process": process, "timeout": 1})
    before = time.monotonic()

    with started(command) as (alone,):
        found = ended(alone)

    assert found == (1, "", line.format(address=command[2]))
    assert time.monotonic() - before < 1 + link.SILENCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("differing", "line"),
    [
        ({"prompt": "class"}, "process 1 has another request than process 0: sha256:"),
        ({"processes": 4}, "process 0 was told that there are 2, process 1 that there are 4"),
    ],
)
def test_processes_that_are_not_told_the_same_are_told_so(mesh_bundle, differing, line):
    with started(*peers(mesh_bundle, {}, differing)) as pair:
        found = [ended(process) for process in pair]

    for code, out, err in found:
        assert (code, out) == (2, "")
        assert err.startswith(f"InputError processes: {line}")


def test_a_request_that_one_process_leaves_early_is_an_error_in_both(mesh_bundle):
    commands = peers(mesh_bundle, {"more": ["stream"]}, {"more": ["on"]})

    with started(*commands) as pair:
        found = [ended(process, 60) for process in pair]

    for code, out, err in found:
        assert (code, re.findall(r"^\[\d", out, re.MULTILINE)) == (2, [])  # beside what Gloo says
        assert err.startswith("InputError processes: process 0 comes with ")
        assert ", process 1 with step " in err


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("here", 2, 0), "coordinator: must be HOST:PORT, got 'here'"),
        ((None, 2, 0), "coordinator: must be HOST:PORT, got None"),
        (("here:1", "2", 0), "processes: must be an integer, got '2'"),
        (("here:1", 2, True), "process: must be an integer, got True"),
        (("here:0", 2, 0), "coordinator: must be HOST:PORT, got 'here:0'"),
        (("here:99999", 2, 0), "coordinator: must be HOST:PORT, got 'here:99999'"),
        (("here:1", 1, 0), "processes: must be at least 2, got 1; one needs no coordinator"),
        (("here:1", 2, 2), "process: must be from 0 to 1, got 2"),
        (("here:1", 2, 0, 0), "timeout: must be above 0, got 0"),
        (("here:1", 2, 0, float("nan")), "timeout: must be above 0, got nan"),
        (("here:1", 2, 0, float("inf")), "timeout: must be at most 86400, got inf"),
        (("here:1", 2, 0, "9"), "timeout: must be a number of seconds, got '9'"),
        (("here:1", 10**9, 0), "processes: must be at most 4096, got 1000000000"),
    ],
)
def test_a_distributed_that_says_nothing_is_refused(given, line):
    with pytest.raises(api.InputError) as error:
        api.Distributed(*given)

    assert str(error.value) == line


def test_an_address_that_is_taken_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(api.InputError) as error:
            meeting.join_group(api.Distributed(address, 2, 0))

    assert str(error.value) == (
        f"coordinator {address}: process 0 cannot listen there: Address already in use; "
        "give an address of its machine with a free port"
    )


def test_a_bundle_that_processes_cannot_share_is_refused_before_they_meet(small_bundle, mesh_bundle):
    for bundle, number, line in [
        (small_bundle, 2, "built for one device, which 2 processes cannot share equally"),
        (mesh_bundle, 3, "built for the mesh data 2 × model 2, which 3 processes cannot share equally"),
    ]:
        with pytest.raises(api.MachineError, match=line):
            api.load(bundle, distributed=api.Distributed("127.0.0.1:1", number, 0))


def test_options_that_belong_together_are_asked_for(refused, mesh_bundle):
    said = refused(2, "run", mesh_bundle, "--prompt", "x", "--coordinator", "here:1")

    assert said.startswith("aot run: --processes is missing: --coordinator, --processes and --process belong together")
