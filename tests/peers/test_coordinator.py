"""The coordinator: strangers neither get in nor hold it up, and processes that part ways are told so."""

import contextlib
import json
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aot.errors import InputError
from aot.runtime.peers import coordinator, door, link, meeting, processes
from aot.runtime.peers.coordinator import _Coordinator
from aot.runtime.peers.distributed import Distributed
from aot.runtime.peers.link import Link
from aot.runtime.peers.lockstep import Lockstep
from aot.runtime.peers.processes import Group

SECRET = "a secret of all processes"


@pytest.fixture(autouse=True)
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """None of the connections that a test makes or takes outlives it."""
    made: list[socket.socket] = []

    def kept(make: Any) -> Any:
        def wrapped(*given: Any, **more: Any) -> Any:
            found = make(*given, **more)
            made.append(found[0] if isinstance(found, tuple) else found)
            return found

        return wrapped

    monkeypatch.setattr(socket, "create_connection", kept(socket.create_connection))
    monkeypatch.setattr(socket.socket, "accept", kept(socket.socket.accept))
    yield
    for each in made:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    for module in (link, door):
        monkeypatch.setattr(module, "SILENCE", 0.5)
    monkeypatch.setenv(door.SECRET_VARIABLE, SECRET)
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def gathering(listener: socket.socket, seconds: float = 20) -> tuple[_Coordinator, threading.Thread, list[Any]]:
    made, found = _Coordinator(2, seconds), []
    thread = threading.Thread(target=lambda: found.append(made.gather(listener, SECRET)), daemon=True)
    thread.start()
    return made, thread, found


def come(listener: socket.socket, process: Any, **greeting: Any) -> Link:
    """A process that says who it is."""
    made = Link(socket.create_connection(listener.getsockname()))
    door.knock(made, {"process": process, "processes": 2, "agree": {"bundle": "b"}, **greeting}, 10)
    return made


def greeted(listener: socket.socket, body: bytes) -> socket.socket:
    """One who knows the secret, and says something else."""
    connection = socket.create_connection(listener.getsockname())
    nonce, own = connection.recv(33).strip(), b"0" * 32
    proof = door._proof(SECRET.encode(), b"process", nonce, own, body)
    connection.sendall(b" ".join([proof, own, body]) + b"\n")
    return connection


DEEP = b"[" * 20_000
STRANGE = [
    b"",
    b"\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\xff\xfe \n",
    b"a b c\n",
    DEEP + b"\n",
    b"x" * (1 << 20),
    json.dumps({"process": 0, "processes": 2, "agree": {}}).encode() + b"\n",
]
LYING = [
    DEEP,
    b'{"process": Infinity, "processes": 2, "agree": {}}',
    b'{"process": 1e999, "processes": 2, "agree": {}}',
    b'{"process": true, "processes": 2, "agree": {}}',
    b'{"process": "0", "processes": 2, "agree": {}}',
    b'{"process": 0, "processes": 2, "agree": {"bundle": 7}}',
    b'{"process": 0, "processes": 2, "agree": null}',
    b'{"process": 0}',
    b"[]",
    b"7",
]


def test_strangers_do_not_keep_processes_from_meeting(listener: socket.socket) -> None:
    _, thread, found = gathering(listener)
    held = [socket.create_connection(listener.getsockname()) for _ in range(100)]
    for data in STRANGE:
        held.append(socket.create_connection(listener.getsockname()))
        held[-1].sendall(data)
    held += [greeted(listener, body) for body in LYING]
    pair = [come(listener, process) for process in (1, 0)]
    thread.join(10)

    assert found == [{}]
    assert len(pair) == 2


def trickle(connection: socket.socket) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        connection.sendall(b"x")
        time.sleep(0.1)


def test_one_who_trickles_is_let_go_in_time_and_holds_nobody_up(listener: socket.socket) -> None:
    _, thread, _ = gathering(listener)
    slow, begin = socket.create_connection(listener.getsockname()), time.monotonic()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        trickle(slow)
    waited = time.monotonic() - begin
    for process in (0, 1):
        come(listener, process)
    thread.join(10)

    assert 0.4 < waited < 3
    assert not thread.is_alive()


@pytest.mark.parametrize("process", [7, -1, 2**70])
def test_a_number_that_no_process_has_is_told_to_all(listener: socket.socket, process: int) -> None:
    _, thread, found = gathering(listener)
    odd = come(listener, process)
    come(listener, 0)
    thread.join(10)

    said = f"one says that it is process {process}; number them from 0 to 1"
    assert odd.receive() == {"differ": said}
    assert found == [{"differ": said}]


def test_another_secret_is_named_and_does_not_end_the_others(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, thread, found = gathering(listener)
    monkeypatch.setenv(door.SECRET_VARIABLE, "another")
    with pytest.raises(
        InputError, match=f"the secret of this process is another; give all of them the same {door.SECRET_VARIABLE}"
    ):
        come(listener, 0)
    monkeypatch.setenv(door.SECRET_VARIABLE, SECRET)
    for process in (0, 1):
        come(listener, process)
    thread.join(10)

    assert found == [{}]


def test_the_coordinator_is_asked_who_it_is_too(listener: socket.socket) -> None:
    def impostor() -> None:
        connection, _ = listener.accept()
        connection.sendall(b"0" * 32 + b"\n")
        connection.recv(1 << 16)
        connection.sendall(b"1" * 64 + b"\n")

    threading.Thread(target=impostor, daemon=True).start()
    with pytest.raises(link.StrangerError, match="is none of aot's"):
        come(listener, 0)


def test_without_a_variable_the_secret_lies_in_a_file_of_the_user_while_they_meet(
    listener: socket.socket, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(door.SECRET_VARIABLE)
    monkeypatch.setenv("AOT_STATE_DIR", str(tmp_path))
    address = listener.getsockname()
    with pytest.raises(InputError, match=f"no secret for it is here .*; set {door.SECRET_VARIABLE}, to the same text"):
        door._known(address)
    with door.shared_secret(address) as made:
        (file,) = (tmp_path / "coordinators").iterdir()
        seen = door._known(address), stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)

    assert seen == (made.encode(), 0o600, 0o700)
    assert len(made) == 64
    assert list((tmp_path / "coordinators").iterdir()) == []
    (tmp_path / "coordinators").chmod(0o777)
    with (
        pytest.raises(InputError, match=f"others can write to it .*; set {door.SECRET_VARIABLE}"),
        door.shared_secret(address),
    ):
        pass


@pytest.mark.parametrize("said", [b"{" + b"x" * 100_000, DEEP + b"\n", b'{"round": NaN}\n', b"[]\n"])
def test_a_line_that_nobody_of_ours_sends_is_a_stranger(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_LONGEST", 1 << 15)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        end = Link.__new__(Link)
        end.socket, end._held, end._lock = ours, b"", threading.Lock()
        theirs.sendall(said)
        with pytest.raises(link.StrangerError):
            end.receive(5)


def test_a_line_has_to_come_whole_in_time_however_often_a_byte_comes() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        end = Link.__new__(Link)
        end.socket, end._held, end._lock = ours, b"", threading.Lock()
        ended = threading.Event()

        def trickle() -> None:
            with contextlib.suppress(OSError):
                while not ended.wait(0.05):
                    theirs.sendall(b" ")

        threading.Thread(target=trickle, daemon=True).start()
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            end.receive(0.4)
        ended.set()

    assert time.monotonic() - begin < 2


@pytest.fixture
def pair(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> list[Group]:
    """Two processes of a group, as far as they need no devices; they have a second for a step."""
    monkeypatch.setattr(link, "SILENCE", 60.0)
    for module in (coordinator, processes):
        monkeypatch.setattr(module, "PULSE", 0.1)
    made, thread, _ = gathering(listener, 1)
    links = [come(listener, process) for process in (0, 1)]
    thread.join(10)
    threading.Thread(target=made.serve, daemon=True).start()
    return [Group(Distributed("here:1", 2, process), end) for process, end in enumerate(links)]


def both(pair: list[Group], *work: Any) -> list[Any]:
    """What the two processes get, each doing its own work; an error as its text."""
    found: list[Any] = [None, None]

    def run(at: int) -> None:
        try:
            found[at] = work[at](pair[at])
        except InputError as error:
            found[at] = str(error)

    threads = [threading.Thread(target=run, args=(at,), daemon=True) for at in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found


def whole(group: Group) -> list[int]:
    return list(Lockstep(iter(range(3)), group))


def left(group: Group) -> Any:
    """Leaves a request after a step, and asks for another."""
    steps = Lockstep(iter(range(3)), group)
    next(steps)
    del steps
    return group.agree(request="next")


def kept(group: Group) -> Any:
    """The same, but for the request that it leaves, which it holds on to."""
    steps = Lockstep(iter(range(3)), group)
    next(steps)
    return group.agree(request="next"), steps


def test_steps_are_taken_by_all(pair: list[Group]) -> None:
    assert both(pair, whole, whole) == [[0, 1, 2]] * 2


@pytest.mark.parametrize(
    ("leave", "with_what"),
    [(left, "end of request 0 after 1 steps"), (kept, "request next")],
)
def test_who_leaves_early_and_goes_on_tells_the_others_and_all_can_go_on_after(
    pair: list[Group], leave: Any, with_what: str
) -> None:
    found = both(pair, leave, whole)

    said = f"processes: process 0 comes with {with_what}, process 1 with step 2 of request 0; "
    assert [text.startswith(said) for text in found] == [True, True]
    assert (
        both(pair, lambda group: group.agree(request="x") > 0, lambda group: group.agree(request="x") > 0) == [True] * 2
    )


def test_all_may_leave_at_the_same_step(pair: list[Group]) -> None:
    first, second = both(pair, left, left)

    assert first == second
    assert isinstance(first, int)


def test_one_who_takes_no_more_steps_is_waited_for_in_bounded_time_only(pair: list[Group]) -> None:
    def idle(group: Group) -> Any:
        steps = Lockstep(iter(range(3)), group)
        next(steps)
        time.sleep(2)
        return next(steps)

    found = both(pair, idle, whole)

    said = "processes: process 0 did not go on with what others wait for within 1 s; "
    assert [text.startswith(said) for text in found] == [True, True]
    assert both(pair, whole, whole) == [[0, 1, 2]] * 2


def test_a_step_that_is_given_up_while_others_take_it_is_taken_to_its_end(pair: list[Group]) -> None:
    ends: list[int] = []
    together = threading.Barrier(2)

    def step() -> int:
        together.wait(10)  # as a collective has it
        time.sleep(0.3)
        ends.append(1)
        return 1

    def give_up(*_: object) -> None:
        raise TimeoutError

    other: list[Any] = []

    def take_two() -> None:
        steps = Lockstep(iter(step, None), pair[1])
        try:
            other.append(next(steps))
            other.append(next(steps))
        except InputError as error:
            other.append(str(error))

    thread = threading.Thread(target=take_two, daemon=True)
    thread.start()
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(TimeoutError):
            next(Lockstep(iter(step, None), pair[0]))
    finally:
        signal.signal(signal.SIGALRM, before)
    thread.join(10)

    assert ends == [1, 1]
    assert other[0] == 1
    assert other[1].startswith("processes: process 0 comes with end of request 0 after 0 steps, process 1 with step 2 ")
    with pytest.raises(InputError, match="process 0 comes with end of request 0 after 0 steps"):
        pair[0].agree(request="next")


def test_who_gives_up_before_a_request_begins_tells_those_who_wait_for_it(pair: list[Group]) -> None:
    def give_up(group: Group) -> Any:
        with pytest.raises(TimeoutError), group.preparing():
            raise TimeoutError  # as a signal's handler does while a long prompt is read
        return group.agree(request="next")

    found = both(pair, give_up, lambda group: group.agree(request="first"))

    said = "processes: process 0 comes with end before it began, process 1 with request first; "
    assert [text.startswith(said) for text in found] == [True, True]
    assert both(pair, whole, whole) == [[0, 1, 2]] * 2


def test_what_is_refused_in_all_processes_is_no_end_of_a_turn(pair: list[Group]) -> None:
    def refuse(group: Group) -> Any:
        with pytest.raises(InputError), group.preparing():
            raise InputError("request: empty")
        return whole(group)

    assert both(pair, refuse, refuse) == [[0, 1, 2]] * 2


def test_work_that_fails_in_one_process_is_told_to_the_others(pair: list[Group]) -> None:
    def fail(group: Group) -> Any:
        return group.turn(lambda _: 1 // 0, {"call": "scale"}, "of a call of scale")

    def do(group: Group) -> Any:
        group.turn(lambda _: 1, {"call": "scale"}, "of a call of scale")
        return group.turn(lambda _: 1, {"call": "other"}, "of a call of other")

    def failing(group: Group) -> Any:
        with pytest.raises(ZeroDivisionError):
            fail(group)
        return group.agree(request="next")

    found = both(pair, failing, do)

    said = "processes: process 0 comes with end of a call of scale, process 1 with call other; "
    assert [text.startswith(said) for text in found] == [True, True]


def test_the_secret_of_process_0_reaches_its_coordinator(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = Distributed(f"127.0.0.1:{listener.getsockname()[1]}", 2, 0)
    process = meeting._started_coordinator(listener, distributed)
    try:
        assert process.stdin is not None
        process.stdin.write(SECRET.encode() + b"\n")
        process.stdin.close()
        assert come(listener, 0)
        assert SECRET.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
