"""Where the processes of one mesh meet: `python -m aot.runtime.coordinator FD PROCESSES SECONDS`; process 0 starts it.

A process of its own, so that it outlives process 0 and can tell the others that this one is gone. It runs the service
of `jax.distributed` too, and ends when all of them have.

FD is a listening socket. Each process connects and says who it is; once all have, each is told that jax's service
listens in its place. The connections stay, and carry a line of JSON at a time:

    {"process": 0, "processes": 2, "agree": {name: value}}   first, from each process
    {"agree": {name: value}}    from each process; answered when all have sent one
    {"same": true, "draw": n}   the answer, where all values are equal; n is a random number
    {"differ": text}            the answer where they are not, or cannot be: two with one number
    {"lost": text}              a process has ended or is silent; there are no answers any more
    {}                          a sign of life, from either side
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

PULSE = 2.0
"""Seconds between two signs of life."""
SILENCE = 10.0
"""Seconds without one after which a process counts as lost."""
NEVER = 10**8
"""Seconds for timeouts of jax's service, which would abort whoever is to be told."""

Line = Mapping[str, Any]


class Link:
    """A connection that carries lines of JSON; from several threads."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(SILENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self._reader: IO[bytes] = connection.makefile("rb")
        self._lock = threading.Lock()

    def send(self, line: Line) -> None:
        """Sends a line; to one who is gone, or takes none, nothing."""
        with self._lock, contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(line).encode() + b"\n")

    def receive(self) -> Line:
        """The next line that is more than a sign of life. Raises OSError where none comes, or it is none of ours."""
        while True:
            data = self._reader.readline(1 << 20)
            try:
                line = json.loads(data)
            except ValueError:
                raise ConnectionError("closed" if not data else "speaks otherwise") from None
            if not isinstance(line, dict):
                raise ConnectionError("speaks otherwise")
            if line:
                return line


class _Coordinator:
    """The links of all processes, by number."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._links: dict[int, Link] = {}
        self._values: dict[int, Any] = {}
        self._lock = threading.Lock()

    def gather(self, listener: socket.socket, seconds: float) -> Line:
        """Waits until all processes have come; the line that says what is wrong, an empty one where nothing is."""
        end, fault = time.monotonic() + seconds, ""
        while len(self._links) < self._processes and not (fault and 0 in self._links):  # process 0 is on its way
            listener.settimeout(max(0.01, end - time.monotonic()))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                absent = [str(number) for number in range(self._processes) if number not in self._links]
                text = f"{_named(absent)} of {self._processes} did not come within {seconds:g} s; start all of them"
                return {"lost": text}
            fault = self._greet(Link(connection)) or fault
        fault = fault or _difference(self._values)
        return {"differ": fault} if fault else {}

    def _greet(self, link: Link) -> str:
        """Takes in a process; what is wrong with it."""
        try:
            line = link.receive()
            number, processes = int(line["process"]), int(line["processes"])
        except (OSError, KeyError, TypeError, ValueError):
            link.socket.close()  # whoever it was, it was none of us
            return ""
        fault = ""
        if number in self._links:
            fault = f"two of them say that they are process {number}; number them from 0 to {self._processes - 1}"
        elif processes != self._processes:
            fault = f"process 0 was told that there are {self._processes}, process {number} that there are {processes}"
        if fault:
            link.send({"differ": fault})
        else:
            self._links[number], self._values[number] = link, line.get("agree")
        return fault

    def serve(self) -> None:
        """Answers until all processes are gone."""
        self._values = {}
        threads = [threading.Thread(target=self._listen, args=item) for item in self._links.items()]
        for thread in threads:
            thread.start()
        threading.Thread(target=self._pulse, daemon=True).start()
        for thread in threads:
            thread.join()

    def tell(self, line: Line) -> None:
        """Sends a line to every process."""
        for link in list(self._links.values()):
            link.send(line)

    def _pulse(self) -> None:
        while True:
            self.tell({})
            time.sleep(PULSE)

    def _listen(self, number: int, link: Link) -> None:
        try:
            while True:
                self._take(number, link.receive().get("agree"))
        except OSError:
            self.tell({"lost": f"process {number} of {self._processes} has ended or does not answer"})
            # It stays open for one that is only slow: were it to close, so would this process, which is to tell it why.
            with contextlib.suppress(OSError):
                link.socket.settimeout(None)
                while link.socket.recv(1 << 16):
                    pass

    def _take(self, number: int, value: Any) -> None:
        with self._lock:
            self._values[number] = value
            if len(self._values) < self._processes:
                return
            fault, self._values = _difference(self._values), {}
            self.tell({"differ": fault} if fault else {"same": True, "draw": secrets.randbits(64)})


def _difference(values: Mapping[int, Any]) -> str:
    """In what the first process that differs from process 0 does."""
    first = values[0]
    for number, value in sorted(values.items()):
        for name in first:
            if value.get(name) != first[name]:
                return f"process {number} has another {name} than process 0: {value.get(name)} against {first[name]}"
    return ""


def _named(numbers: list[str]) -> str:
    return f"process {numbers[0]}" if len(numbers) == 1 else f"processes {', '.join(numbers)}"


def main(fd: int, processes: int, seconds: float) -> None:
    """Runs to its end."""
    from jaxlib import _jax

    listener = socket.socket(fileno=fd)
    host, port, *_ = listener.getsockname()
    coordinator = _Coordinator(processes)
    fault = coordinator.gather(listener, seconds)
    listener.close()
    if fault:
        coordinator.tell(fault)
        return
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    service = _jax.get_distributed_runtime_service(address, processes, NEVER, NEVER, NEVER)
    coordinator.tell({"same": True, "draw": secrets.randbits(64)})
    coordinator.serve()
    del service
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
