"""The door of a coordinator: who comes shows that it knows the secret of all processes, and is shown the same.

The first lines on a connection, all of which have to come in `SILENCE` seconds:

    NONCE                 from the coordinator
    PROOF NONCE {JSON}    from a process: a nonce of its own, and who it is
    PROOF                 from the coordinator, or `refused`

A proof is an HMAC-SHA256 under the secret, of both nonces and whatever else is said; the secret itself is never sent.
It is the text of a variable, the same for all processes; without that the one that starts the coordinator makes one
and leaves it in a file in the state directory of its user, where the others read it.
"""

import contextlib
import hmac
import json
import os
import secrets
import selectors
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aot import directories, strict_json
from aot.errors import AotError, InputError
from aot.replacing import replacing
from aot.runtime.peers.link import SILENCE, Line, Link, StrangerError

SECRET_VARIABLE = "AOT_COORDINATOR_SECRET"
"""Environment variable with the secret."""

_REFUSED = b"refused"
_GUESTS = 64
"""Connections whose greeting is awaited at a time; then the one that has had longest for it has to go."""
_GREETING = 1 << 16
"""Bytes of a greeting at most."""
_TICK = 1.0


@contextlib.contextmanager
def shared_secret(address: Any) -> Iterator[str]:
    """The secret for a coordinator that listens at an address; for those on this machine in a file, while this lasts.

    Raises InputError where there is no place for that file.
    """
    if given := os.environ.get(SECRET_VARIABLE):
        yield given
        return
    made = secrets.token_hex(32)
    try:
        path = _file(address)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        directories.check_directory(path.parent, "state")
        with replacing(path, 0o600) as file:
            file.write(made.encode())
    except (AotError, OSError) as error:
        raise InputError(
            f"coordinator: its secret cannot be written ({error}); set {SECRET_VARIABLE}, to the same text for all "
            "processes"
        ) from error
    try:
        yield made
    finally:
        path.unlink(missing_ok=True)


def knock(link: Link, greeting: Line, seconds: float) -> None:
    """Shows the coordinator at the other end who this process is, once that opens within so many seconds.

    Raises InputError where the secret is missing or another, OSError where nobody of ours is there.
    """
    nonce, own = link.read(seconds), secrets.token_hex(16).encode()
    secret, body = _known(link.socket.getpeername()), json.dumps(greeting).encode()
    link.write(b" ".join([_proof(secret, b"process", nonce, own, body), own, body]))
    answer = link.read(SILENCE)
    if answer == _REFUSED:
        raise InputError(
            f"coordinator: the secret of this process is another; give all of them the same {SECRET_VARIABLE}"
        )
    if not hmac.compare_digest(answer, _proof(secret, b"coordinator", own, nonce)):
        raise StrangerError("is none of aot's")


class Door:
    """The coordinator's side."""

    def __init__(self, listener: socket.socket, secret: str) -> None:
        self._listener, self._secret = listener, _secret_bytes(secret)
        self._guests: dict[socket.socket, _Guest] = {}  # the one that came first is first
        listener.setblocking(False)

    def admitted(self, end: float) -> Iterator[tuple[Link, Line]]:
        """Processes that know the secret, as they come until a moment, and what they say of themselves."""
        with selectors.DefaultSelector() as ready:
            ready.register(self._listener, selectors.EVENT_READ)
            try:
                while (left := end - time.monotonic()) > 0:
                    for event, _ in ready.select(min(left, _TICK)):
                        if event.fileobj is self._listener:
                            self._let_in(ready)
                        elif found := self._heard(event.fileobj, ready):
                            yield found
                    self._dismiss(ready)
            finally:
                for connection in self._guests:
                    connection.close()

    def _let_in(self, ready: selectors.BaseSelector) -> None:
        with contextlib.suppress(OSError):  # it is gone again
            connection, _ = self._listener.accept()
            self._guests[connection] = _Guest(connection)
            ready.register(connection, selectors.EVENT_READ)

    def _heard(self, connection: Any, ready: selectors.BaseSelector) -> tuple[Link, Line] | None:
        try:
            line = self._guests[connection].more()
            if line is None:
                return None
            found = self._admit(connection, self._guests[connection].nonce, line)
        except (OSError, ValueError):
            self._turn_away(connection, ready)
            return None
        del self._guests[connection]
        ready.unregister(connection)
        return found

    def _admit(self, connection: socket.socket, nonce: bytes, line: bytes) -> tuple[Link, Line]:
        """Raises ValueError for one that does not know the secret, or says nothing."""
        proof, own, body = line.split(b" ", 2)
        link = Link(connection)
        if not hmac.compare_digest(proof, _proof(self._secret, b"process", nonce, own, body)):
            link.write(_REFUSED)
            raise ValueError("knows another secret")
        greeting = strict_json.parse_strictly(body)
        if not isinstance(greeting, dict):
            raise ValueError("says nothing of itself")
        link.write(_proof(self._secret, b"coordinator", own, nonce))
        return link, greeting

    def _dismiss(self, ready: selectors.BaseSelector) -> None:
        """Sends those away who have had their time, or take the place of others."""
        late = [guest.connection for guest in self._guests.values() if guest.end < time.monotonic()]
        for connection in dict.fromkeys([*late, *list(self._guests)[:-_GUESTS]]):
            self._turn_away(connection, ready)

    def _turn_away(self, connection: socket.socket, ready: selectors.BaseSelector) -> None:
        del self._guests[connection]
        ready.unregister(connection)
        connection.close()


class _Guest:
    """A connection of which nothing is known yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.end = connection, time.monotonic() + SILENCE
        self.nonce = secrets.token_hex(16).encode()
        self._held = b""
        connection.setblocking(False)
        connection.send(self.nonce + b"\n")

    def more(self) -> bytes | None:
        """The line of who knocks, once all of it is there. Raises OSError, and ValueError for what is none."""
        data = self.connection.recv(_GREETING)
        self._held += data
        if not data or len(self._held) > _GREETING:
            raise ValueError("no greeting")
        line, found, rest = self._held.partition(b"\n")
        if rest:
            raise ValueError("says more than was asked")
        return line if found else None


def _known(address: Any) -> bytes:
    """The secret for the coordinator at an address, as this process knows it."""
    if given := os.environ.get(SECRET_VARIABLE):
        return _secret_bytes(given)
    try:
        path = _file(address)
        directories.check_directory(path.parent, "state")
        return _secret_bytes(path.read_text())
    except (AotError, OSError) as error:
        raise InputError(
            f"coordinator: no secret for it is here ({error}); set {SECRET_VARIABLE}, to the same text for all "
            "processes"
        ) from error


def _file(address: Any) -> Path:
    host, port, *_ = address
    return directories.directory_of("state") / "coordinators" / f"{host}_{port}".replace(":", "-")


def _secret_bytes(secret: str) -> bytes:
    return secret.encode(errors="surrogateescape")


def _proof(secret: bytes, *said: bytes) -> bytes:
    return hmac.new(secret, b" ".join(said), "sha256").hexdigest().encode()
