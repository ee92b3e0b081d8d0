"""The way of jax's client to its service, through this process: where the service ends, the client does not see it.

jax aborts a process whose connection to the service of `jax.distributed` closes, and takes no callback instead (from
Python one ends in `std::bad_cast`). So its client connects to a socket of this process, which hands on what comes and
stays open. What then waits for an answer is ended by `processes`, which hears of it over a connection of its own.
"""

import contextlib
import socket
import threading

_CHUNK = 1 << 16


def relay_to(upstream: socket.socket) -> str:
    """An address for one connection, whose bytes go to and come from `upstream` for as long as this process lasts."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1)
    host, port = listener.getsockname()
    threading.Thread(target=_serve, args=(listener, upstream), name="aot-relay", daemon=True).start()
    return f"{host}:{port}"


def _serve(listener: socket.socket, upstream: socket.socket) -> None:
    with listener:
        here, _ = listener.accept()
    for each in (here, upstream):
        each.settimeout(None)
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=_pump, args=(here, upstream), name="aot-relay", daemon=True).start()
    _pump(upstream, here)
    threading.Event().wait()  # holds both sockets: one that is let go of closes


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
