"""Where the processes of one mesh meet; process 0 starts it.

    python -m aot.runtime.peers.coordinator FD PROCESSES SECONDS

A process of its own, so that it outlives process 0 and can tell the others that this one is gone. It runs the service
of `jax.distributed` too, and ends when all of them have.

FD is a listening socket; the secret that processes have to know comes on stdin. Each connects and shows it, as `door`
has it, and says who it is; once all have, each is told that jax's service listens in its place. The connections stay,
and carry a line of JSON at a time:

    {"process": 0, "processes": 2, "agree": {name: value}}    first, from each process
    {"agree": {name: value}, "round": n, "bounded": false}    from each; answered when all have sent one for this round
    {"same": true, "draw": n}   the answer, where all values are equal; n is a random number
    {"differ": text}            the answer where they are not, or cannot be: two with one number; or where the round is
                                bounded and some have not sent theirs in SECONDS
    {"lost": text}              a process has ended or is silent; there are no answers any more
    {}                          a sign of life, from either side
"""

import contextlib
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import TypeGuard

from aot.runtime.peers.door import Door
from aot.runtime.peers.link import PULSE, SILENCE, Line, Link, StrangerError

NEVER = 10**8
"""Seconds for timeouts of jax's service, which would abort whoever is to be told."""

Values = Mapping[str, str]


class _Coordinator:
    """The links of all processes, by number."""

    def __init__(self, processes: int, seconds: float) -> None:
        self._processes, self._seconds = processes, seconds
        self._links: dict[int, Link] = {}
        self._values: dict[int, Values] = {}
        self._round = 0
        self._end: float | None = None  # of the round, where it is bounded
        self._lock = threading.Lock()

    def gather(self, listener: socket.socket, secret: str) -> Line:
        """Waits until all processes have come; the line that says what is wrong, an empty one where nothing is."""
        fault = ""
        for link, line in Door(listener, secret).admitted(time.monotonic() + self._seconds):
            fault = self._greet(link, line) or fault
            if len(self._links) == self._processes or (fault and 0 in self._links):  # process 0 is on its way
                fault = fault or _difference(self._values)
                return {"differ": fault} if fault else {}
        absent = _named(self._absent(self._links))
        return {"lost": f"{absent} of {self._processes} did not come within {self._seconds:g} s; start all of them"}

    def _greet(self, link: Link, line: Line) -> str:
        """Takes in a process; what is wrong with it."""
        number, processes, values = (line.get(name) for name in ("process", "processes", "agree"))
        if type(number) is not int or type(processes) is not int or not _are_values(values):
            link.socket.close()  # it knows the secret, and is none of us all the same
            return ""
        fault = ""
        if processes != self._processes:
            fault = f"process 0 was told that there are {self._processes}, process {number} that there are {processes}"
        elif number in self._links:
            fault = f"two of them say that they are process {number}; number them from 0 to {self._processes - 1}"
        elif not 0 <= number < processes:
            fault = f"one says that it is process {number}; number them from 0 to {self._processes - 1}"
        if fault:
            link.send({"differ": fault})
        else:
            self._links[number], self._values[number] = link, values
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
            with self._lock:
                if self._end is not None and self._end < time.monotonic():
                    absent = _named(self._absent(self._values))
                    self._answer(f"{absent} did not go on with what others wait for within {self._seconds:g} s")
            time.sleep(PULSE)

    def _listen(self, number: int, link: Link) -> None:
        patience = self._seconds + SILENCE  # on a busy machine they import for long before they give a sign of life
        try:
            while True:
                self._take(number, link.receive(patience))
                patience = SILENCE
        except OSError:
            self.tell({"lost": f"process {number} of {self._processes} has ended or does not answer"})
            # It stays open for one that is only slow: were it to close, so would this process, which is to tell it why.
            with contextlib.suppress(OSError):
                link.socket.settimeout(None)
                while link.socket.recv(1 << 16):
                    pass

    def _take(self, number: int, line: Line) -> None:
        if not _are_values(values := line.get("agree")):
            raise StrangerError("speaks otherwise")
        with self._lock:
            if line.get("round") != self._round:
                return  # which has been answered, as this one did not come in time
            self._values[number] = values
            if line.get("bounded") and self._end is None:
                self._end = time.monotonic() + self._seconds
            if len(self._values) == self._processes:
                self._answer(_difference(self._values))

    def _answer(self, fault: str) -> None:
        """Ends a round."""
        self._round, self._values, self._end = self._round + 1, {}, None
        self.tell({"differ": fault} if fault else {"same": True, "draw": secrets.randbits(64)})

    def _absent(self, present: Mapping[int, object]) -> list[str]:
        return [str(number) for number in range(self._processes) if number not in present]


def _are_values(given: object) -> TypeGuard[Values]:
    return isinstance(given, dict) and all(isinstance(value, str) for value in given.values())


def _difference(values: Mapping[int, Values]) -> str:
    """A line that says in what the first process that differs from process 0 does so; empty where none does."""
    first = values[0]
    for number, value in sorted(values.items()):
        if value.keys() != first.keys():
            return f"process 0 comes with {_spelled(first)}, process {number} with {_spelled(value)}"
        for name in first:
            if value[name] != first[name]:
                return f"process {number} has another {name} than process 0: {value[name]} against {first[name]}"
    return ""


def _spelled(values: Values) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "nothing"


def _named(numbers: list[str]) -> str:
    return f"process {numbers[0]}" if len(numbers) == 1 else f"processes {', '.join(numbers)}"


def main(fd: int, processes: int, seconds: float) -> None:
    """Runs to its end."""
    from jaxlib import _jax

    listener = socket.socket(fileno=fd)
    host, port, *_ = listener.getsockname()
    coordinator = _Coordinator(processes, seconds)
    fault = coordinator.gather(listener, sys.stdin.readline().strip())
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
