"""How the processes that serve one mesh together find each other: at a coordinator, which process 0 starts."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aot import children
from aot.errors import InputError, MachineError, PeerError
from aot.runtime.peers import door
from aot.runtime.peers.coordinator import NEVER
from aot.runtime.peers.distributed import Distributed
from aot.runtime.peers.link import SILENCE, Line, Link, StrangerError
from aot.runtime.peers.processes import Group

if TYPE_CHECKING:
    from jaxlib import _jax

_RETRY = 0.1

_groups: dict[Distributed, Group] = {}
_started: list[subprocess.Popen[bytes]] = []  # held, as Python would complain of one that outlives its object


def join_group(distributed: Distributed, **values: object) -> Group:
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
    agree = {name: str(value) for name, value in values.items()}
    greeting = {"process": distributed.process, "processes": distributed.processes, "agree": agree}
    with _coordinator(distributed) if distributed.process == 0 else contextlib.nullcontext():
        link = _connected(distributed, greeting)
        import jax._src.distributed  # noqa: F401 -- takes long, and goes on while the others come

        try:
            line = link.receive(distributed.timeout + SILENCE)
        except OSError:
            line = {"lost": f"the coordinator {distributed.coordinator} has ended, or is none of aot's"}
    if "lost" in line:
        raise PeerError(f"processes: {line['lost']}")
    if "differ" in line:
        raise InputError(f"processes: {line['differ']}")
    group = Group(distributed, link)
    with group.watched():
        group.client = _client(distributed)
    return group


@contextlib.contextmanager
def _coordinator(distributed: Distributed) -> Iterator[None]:
    """Listens, so that an address which cannot be used is told here, and hands that on to a process of its own.

    As long as this lasts processes that come find its secret.
    """
    try:
        family, *_, address = socket.getaddrinfo(*distributed.address, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address, family=family, backlog=distributed.processes)
    except OSError as error:
        cause = str(error.strerror or error).partition(" (")[0]
        raise InputError(
            f"coordinator {distributed.coordinator}: process 0 cannot listen there: {cause}; give an address of its"
            " machine with a free port"
        ) from error
    with listener, door.shared_secret(listener.getsockname()) as secret:
        process = _started_coordinator(listener, distributed)
        assert process.stdin is not None
        with process.stdin as stdin, contextlib.suppress(BrokenPipeError):  # it is gone, as will be found out
            stdin.write(f"{secret}\n".encode(errors="surrogateescape"))
        listener.close()
        yield


def _started_coordinator(listener: socket.socket, distributed: Distributed) -> "subprocess.Popen[bytes]":
    arguments = map(str, (listener.fileno(), distributed.processes, distributed.timeout))
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = children.child_command("aot.runtime.peers.coordinator", *arguments)
    variables = {**os.environ, **children.child_variables()}
    process = subprocess.Popen(command, env=variables, pass_fds=[listener.fileno()], start_new_session=True, **streams)
    _started.append(process)
    return process


def _connected(distributed: Distributed, greeting: Line) -> Link:
    end = time.monotonic() + distributed.timeout
    while True:
        try:
            connection = socket.create_connection(distributed.address, timeout=distributed.timeout)
            return _admitted(connection, greeting, max(0.0, end - time.monotonic()))
        except StrangerError as error:
            raise PeerError(f"processes: who listens at {distributed.coordinator} {error}; name process 0's") from error
        except OSError as error:
            if time.monotonic() > end:
                raise PeerError(
                    f"processes: no coordinator at {distributed.coordinator} within {distributed.timeout:g} s"
                    f" ({error.strerror or error}); start process 0, and give every process its address"
                ) from error
            time.sleep(_RETRY)


def _admitted(connection: socket.socket, greeting: Line, seconds: float) -> Link:
    try:
        link = Link(connection)
        door.knock(link, greeting, seconds)
    except BaseException:
        connection.close()
        raise
    return link


def _client(distributed: Distributed) -> "_jax.DistributedRuntimeClient":
    """The client of jax's service, by which devices and Gloo find their peers."""
    from jax._src import distributed as jax_distributed
    from jaxlib import _jax

    from aot.runtime.peers import relay

    state = jax_distributed.global_state
    if state.client is not None:
        raise MachineError("distributed: jax.distributed was initialized already; leave that to aot.load")
    upstream = socket.create_connection(distributed.address, timeout=distributed.timeout)
    client = _jax.get_distributed_runtime_client(
        relay.relay_to(upstream), distributed.process, init_timeout=NEVER, heartbeat_timeout=NEVER,
        shutdown_on_destruction=False, use_compression=True,
    )  # fmt: skip
    client.connect()
    state.client, state.process_id, state.num_processes = client, distributed.process, distributed.processes
    return client
