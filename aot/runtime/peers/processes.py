"""Several processes that serve one mesh together: how they agree, act together, and notice that one is gone."""

import atexit
import contextlib
import faulthandler
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

from aot.errors import AotError, InputError, PeerError
from aot.runtime.peers.distributed import Distributed
from aot.runtime.peers.link import PULSE, Line, Link

T = TypeVar("T")

GRACE = 5.0
"""Seconds that a call under way has to fail by itself, once a process is lost, before this process is ended."""


class Group:
    """A process among its peers, all of which have come. Lasts as long as the process."""

    def __init__(self, distributed: Distributed, link: Link) -> None:
        self.distributed = distributed
        self._link = link
        self._answers: queue.SimpleQueue[Line] = queue.SimpleQueue()
        self._turns: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self.round = 0
        """How many turns there have been, with that to tell others of an end: the same number in all processes."""
        self.partings = 0
        """How often they have come with different things: the same number in all processes."""
        self._fault: InputError | None = None  # of a turn for which nobody waited
        self._lost = ""
        self._raised = False
        self._calls = 0
        self.client: Any = None
        """The client of jax's service, once it is there."""
        self._backend: tuple[int, Any] | None = None
        atexit.register(self._end_in_time)
        for target in (self._listen, self._pulse, self._take_turns):
            _begin(target)

    @property
    def here(self) -> str:
        """The address of this machine by which the coordinator is reached."""
        return str(self._link.socket.getsockname()[0])

    def backend(self, devices: int, make: "Callable[[Group, int], T]") -> T:
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
        return self.turn(int, values, _BEFORE)

    def turn(self, work: Callable[[int], T], values: Mapping[str, object], end: str, since: int | None = None) -> T:
        """What `work` gives for the number that all processes agree on, once they are here with equal values.

        In a thread of the group's, behind the turns before it: who gives up waiting leaves no work half done, in which
        the others would wait for ever. Where this process gives it up, or its work fails, the others are told this
        `end`. Of what began `since` so many partings it is a part: then they wait for each other no longer than they
        had to come, and a later parting has ended it. Raises as `agree`.
        """
        future = self._queued(partial(self._whole, work, values, end, since))
        try:
            return future.result()
        except BaseException as error:
            if not (future.done() and future.exception() is error):
                self.leave(end, self.partings)
            raise

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """What comes before a turn, for which the others may wait already: who gives it up tells them.

        An AotError is none to tell: what is asked of all processes is refused in all of them.
        """
        try:
            yield
        except AotError:
            raise
        except BaseException:
            self.leave(_BEFORE, self.partings)
            raise

    def leave(self, end: str, since: int) -> None:
        """Tells the others that this process goes no further here; where they do, all of them are told so."""

        def tell() -> None:
            try:
                if since == self.partings:
                    self._agreed({"end": end}, bounded=True)
            except InputError as fault:
                self._fault = fault  # for the next turn, as nobody waits for this one

        self._queued(tell)

    def close(self) -> None:
        """Waits until no process needs another any more; nothing where one is gone."""
        self._queued(self._forget)
        with contextlib.suppress(PeerError, InputError):
            self.agree(close="of the model")

    def _whole(self, work: Callable[[int], T], values: Mapping[str, object], end: str, since: int | None) -> T:
        if since not in (None, self.partings):
            raise InputError("processes: what this belongs to has ended, as they parted; ask for it again")
        draw = self._agreed(values, bounded=since is not None)
        try:
            return work(draw)
        except BaseException:
            self.leave(end, self.partings)
            raise

    def _queued(self, work: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        self._turns.put((work, future))
        return future

    def _take_turns(self) -> None:
        while True:
            _take(*self._turns.get())  # which holds on to nothing of it: to be let go of may be told to the others

    def _forget(self) -> None:
        self._fault = None

    def _agreed(self, values: Mapping[str, object], bounded: bool) -> int:
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault
        if not self._lost:
            spelled = {name: str(value) for name, value in values.items()}
            self._link.send({"agree": spelled, "round": self.round, "bounded": bounded})
            self.round += 1
        answer = self._answers.get()
        if "lost" in answer:
            self._answers.put(answer)
            raise self.lost()
        if "differ" in answer:
            self.partings += 1
            raise _differing(answer)
        return int(answer["draw"])

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
                if "differ" in line:
                    _begin(self._end_what_hangs, partial(_differing, line))
                self._answers.put(line)
        except OSError:
            line = {"lost": "the coordinator has ended or does not answer"}
        self._lost = str(line["lost"])
        self._answers.put(line)
        while True:
            self._end_what_hangs(self.lost)

    def _end_what_hangs(self, cause: Callable[[], AotError]) -> None:
        """Ends the process where a call waits for one that does not take part in it: Gloo does so for ever."""
        before = self._calls
        time.sleep(GRACE)
        if before % 2 and self._calls == before:
            error = cause()
            os.write(2, f"{error}\n".encode())
            os._exit(error.exit_code)

    def _end_in_time(self) -> None:
        """Ends the process where it does not end by itself, for a program waits for a process that is gone."""
        if self._raised:
            nowhere = open(os.devnull, "w")  # noqa: SIM115 -- it is written to until the end
            faulthandler.dump_traceback_later(GRACE, exit=True, file=nowhere)  # the one timer that needs no Python


_BEFORE = "before it began"
_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


def _begin(target: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=target, args=arguments, name="aot-peers", daemon=True).start()


def _take(work: Callable[[], Any], future: "Future[Any]") -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


def _differing(answer: Line) -> InputError:
    return InputError(
        f"processes: {answer['differ']}; give every process the same, and end what is streamed at the same piece"
    )


def watched_call(group: Group | None) -> AbstractContextManager[None]:
    """A call that takes all processes of a group, if there is one."""
    return _NOTHING if group is None else group.watched()
