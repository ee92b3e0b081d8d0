"""Several processes that serve one mesh together: how they find each other, agree, and notice that one is gone."""

import atexit
import contextlib
import faulthandler
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from aot.errors import InputError, MachineError, PeerError
from aot.runtime.coordinator import NEVER, PULSE, SILENCE, Line, Link
from aot.runtime.distributed import Distributed

GRACE = 5.0
"""Seconds that a call under way has to fail by itself, once a process is lost, before this process is ended."""

_RETRY = 0.1


class Group:
    """A process among its peers, all of which have come. Lasts as long as the process."""

    def __init__(self, distributed: Distributed, link: Link) -> None:
        self.distributed = distributed
        self._link = link
        self._answers: queue.SimpleQueue[Line] = queue.SimpleQueue()
        self._lost = ""
        self._raised = False
        self._calls = 0
        self.client: Any = None
        """Of jax's service, once it is there."""
        self._backend: tuple[int, Any] | None = None
        atexit.register(self._end_in_time)
        for target in (self._listen, self._pulse):
            threading.Thread(target=target, name="aot-peers", daemon=True).start()

    @property
    def here(self) -> str:
        """The address of this machine by which the coordinator is reached."""
        return str(self._link.socket.getsockname()[0])

    def backend(self, devices: int, make: "Callable[[Group, int], Any]") -> Any:
        """What `make` gives for so many devices of this process: made once, for the other processes know it then."""
        if self._backend is None:
            with self.watched():
                self._backend = devices, make(self, devices)
        if self._backend[0] != devices:
            raise InputError(
                f"distributed: this process has {self._backend[0]} devices since it first loaded a bundle, this one"
                f" takes {devices} of each; start processes for it"
            )
        return self._backend[1]

    def agree(self, **values: object) -> int:
        """Waits for all processes to get here with equal values; a random number, the same for all of them.

        Raises InputError where they are not equal, PeerError where a process is gone.
        """
        if not self._lost:
            self._link.send({"agree": {name: str(value) for name, value in values.items()}})
        answer = self._answers.get()
        if "lost" in answer:
            self._answers.put(answer)
            raise self.lost()
        if "differ" in answer:
            raise InputError(f"processes: {answer['differ']}; give every process the same")
        return int(answer["draw"])

    def leave(self) -> None:
        """Waits until no process needs another any more; nothing where one is gone."""
        with contextlib.suppress(PeerError, InputError):
            self.agree()

    def lost(self, error: BaseException | None = None) -> PeerError:
        """The error that a process is gone, which may be known by nothing but the failure of what it took part in."""
        if not self._lost and error is not None:
            time.sleep(PULSE / 4)  # the message that says which one is under way
        self._raised = True
        cause = self._lost or f"what it does together failed: {str(error).partition(chr(10))[0]}"
        return PeerError(f"processes: {cause}; start all of them again")

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """A call that takes all processes. Raises PeerError where it fails."""
        if self._lost:
            raise self.lost()
        self._calls += 1
        try:
            yield
        except (RuntimeError, OSError) as error:  # jaxlib's, or of the way to jax's service
            raise self.lost(error) from error
        finally:
            self._calls += 1

    def _pulse(self) -> None:
        while True:
            self._link.send({})
            time.sleep(PULSE)

    def _listen(self) -> None:
        try:
            while "lost" not in (line := self._link.receive()):
                self._answers.put(line)
        except OSError:
            line = {"lost": "the coordinator has ended or does not answer"}
        self._lost = line["lost"]
        self._answers.put(line)
        self._end_what_hangs()

    def _end_what_hangs(self) -> None:
        """Ends the process where a call waits for a process that is gone: Gloo waits for ever for a silent one."""
        while True:
            before = self._calls
            time.sleep(GRACE)
            if before % 2 and self._calls == before:
                os.write(2, f"{self.lost()}\n".encode())
                os._exit(PeerError.exit_code)

    def _end_in_time(self) -> None:
        """Ends the process where it does not end by itself, for a program waits for a process that is gone."""
        if self._raised:
            nowhere = open(os.devnull, "w")  # noqa: SIM115 -- it is written to until the end
            faulthandler.dump_traceback_later(GRACE, exit=True, file=nowhere)  # the one timer that needs no Python


_groups: dict[Distributed, Group] = {}
_started: list[subprocess.Popen[bytes]] = []  # held, as Python would complain of one that outlives its object
_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


def watched(group: Group | None) -> AbstractContextManager[None]:
    """A call that takes all processes of a group, if there is one."""
    return _NOTHING if group is None else group.watched()


def join(distributed: Distributed, **values: object) -> Group:
    """Meets the other processes, which must have equal values.

    Raises InputError where they have not, or the address cannot be used, PeerError where one does not come.
    """
    if _groups and distributed not in _groups:
        raise InputError("distributed: this process serves with other ones already; start a process for each")
    if distributed not in _groups:
        _groups[distributed] = _joined(distributed, values)
    else:
        _groups[distributed].agree(**values)
    return _groups[distributed]


def _joined(distributed: Distributed, values: dict[str, object]) -> Group:
    if distributed.process == 0:
        _start_coordinator(distributed)
    link = _connected(distributed)
    agree = {name: str(value) for name, value in values.items()}
    link.send({"process": distributed.process, "processes": distributed.processes, "agree": agree})
    import jax._src.distributed  # noqa: F401 -- takes long, and goes on while the others come

    link.socket.settimeout(distributed.timeout + SILENCE)
    try:
        line = link.receive()
    except OSError:
        line = {"lost": f"the coordinator {distributed.coordinator} has ended, or is none of aot's"}
    if "lost" in line:
        raise PeerError(f"processes: {line['lost']}")
    if "differ" in line:
        raise InputError(f"processes: {line['differ']}")
    link.socket.settimeout(SILENCE)
    group = Group(distributed, link)
    with group.watched():
        group.client = _client(distributed)
    return group


def _start_coordinator(distributed: Distributed) -> None:
    """Listens, so that an address which cannot be used is told here, and hands that on to a process of its own."""
    try:
        family, *_, address = socket.getaddrinfo(*distributed.address, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address, family=family, backlog=distributed.processes)
    except OSError as error:
        cause = str(error.strerror or error).partition(" (")[0]
        raise InputError(
            f"coordinator {distributed.coordinator}: process 0 cannot listen there: {cause}; give an address of its"
            " machine with a free port"
        ) from error
    command = [sys.executable, "-m", "aot.runtime.coordinator", str(listener.fileno())]
    with listener:
        arguments = [*command, str(distributed.processes), str(distributed.timeout)]
        null = subprocess.DEVNULL
        _started.append(
            subprocess.Popen(
                arguments, stdin=null, stdout=null, stderr=null, pass_fds=[listener.fileno()], start_new_session=True
            )
        )


def _connected(distributed: Distributed) -> Link:
    end = time.monotonic() + distributed.timeout
    while True:
        try:
            return Link(socket.create_connection(distributed.address, timeout=distributed.timeout))
        except OSError as error:
            if time.monotonic() > end:
                raise PeerError(
                    f"processes: no coordinator at {distributed.coordinator} within {distributed.timeout:g} s"
                    f" ({error.strerror or error}); start process 0, and give every process its address"
                ) from error
            time.sleep(_RETRY)


def _client(distributed: Distributed) -> Any:
    """The client of jax's service, by which devices and Gloo find their peers."""
    from jax._src import distributed as jax_distributed
    from jaxlib import _jax

    from aot.runtime import relay

    state = jax_distributed.global_state
    if state.client is not None:
        raise MachineError("distributed: jax.distributed was initialized already; leave that to aot.load")
    upstream = socket.create_connection(distributed.address, timeout=distributed.timeout)
    client = _jax.get_distributed_runtime_client(
        relay.to(upstream), distributed.process, init_timeout=NEVER, heartbeat_timeout=NEVER,
        shutdown_on_destruction=False, use_compression=True,
    )  # fmt: skip
    client.connect()
    state.client, state.process_id, state.num_processes = client, distributed.process, distributed.processes
    return client
