"""A connection between processes that carries lines; from several threads.

But for the first ones, with which they show each other who they are (`door`), a line is a JSON object.
"""

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from aot import strict_json

PULSE = 2.0
"""Seconds between two signs of life."""
SILENCE = 10.0
"""Seconds without a whole line after which a process counts as lost."""

_LONGEST = 1 << 20
_CHUNK = 1 << 16

Line = Mapping[str, Any]


class StrangerError(ConnectionError):
    """Who is there speaks otherwise than we do."""


class Link:
    """One end. What fails is an OSError: TimeoutError where no line comes in time, StrangerError where none of ours."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(SILENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self._held = b""
        self._lock = threading.Lock()

    def write(self, line: bytes) -> None:
        """Sends a line."""
        with self._lock:
            self.socket.sendall(line + b"\n")

    def send(self, line: Line) -> None:
        """Sends a line of JSON; to one who is gone, or takes none, nothing."""
        with contextlib.suppress(OSError):
            self.write(json.dumps(line).encode())

    def read(self, seconds: float) -> bytes:
        """The next line, all of which comes within so many seconds, however slowly it trickles in."""
        end = time.monotonic() + seconds
        line, found, self._held = self._held.partition(b"\n")
        while not found:
            if len(line) > _LONGEST:
                raise StrangerError("speaks otherwise")
            piece, found, self._held = self._piece(end).partition(b"\n")
            line += piece
        return line

    def receive(self, seconds: float = SILENCE) -> Line:
        """The next line of JSON that is more than a sign of life, the first of which comes within so many seconds."""
        while True:
            try:
                line, seconds = strict_json.parse_strictly(self.read(seconds)), SILENCE
            except ValueError as error:
                raise StrangerError("speaks otherwise") from error
            if not isinstance(line, dict):
                raise StrangerError("speaks otherwise")
            if line:
                return line

    def _piece(self, end: float) -> bytes:
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            raise TimeoutError("is silent")
        data = self.socket.recv(_CHUNK)
        if not data:
            raise ConnectionResetError("has closed the connection")
        return data
