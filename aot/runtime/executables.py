"""The executables of a bundle, each loaded when it is first needed, or ahead of that in a thread."""

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from typing import Literal

from aot.bundle.index.records import ProgramRecord
from aot.bundle.store import Bundle
from aot.errors import AotError, MachineError
from aot.runtime.device.client import Client, Executable
from aot.runtime.fitting import entries, expiry

log = logging.getLogger("aot")

Policy = Literal["strict", "compile"]
"""What becomes of a program without an executable for this machine: an error, or a compile."""


class Executables:
    """Ready to be called, by program. May be used from several threads; each program is loaded once."""

    def __init__(self, bundle: Bundle, client: Client, policy: Policy) -> None:
        self._bundle, self._client, self._policy = bundle, client, policy
        self._made: dict[str, Future[Executable]] = {}
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def of(self, program: ProgramRecord) -> Executable:
        """The program, ready to run.

        Where no executable fits this machine, raises ExpiredError for an expired program, and MachineError for
        another if the policy does not allow compiling.
        """
        with self._lock:
            future = self._made.get(program.digest)
            first = future is None
            if future is None:
                future = self._made[program.digest] = Future()
        if first:
            self._make(program, future)
        return future.result()

    def ahead(self, programs: Iterable[ProgramRecord]) -> None:
        """Loads what fits this machine, in a thread of its own; faults wait for whoever needs the program."""
        self._begin(self._load, programs)

    def rest(self, programs: Iterable[ProgramRecord]) -> None:
        """Loads ahead all that there are; no file is held open for them afterwards."""
        self._begin(self._load_all, programs)

    def close(self) -> None:
        """Ends loading ahead, and waits until it has ended."""
        self._closed = True
        for thread in self._threads:
            thread.join()

    def _begin(self, target: Callable[[Iterable[ProgramRecord]], object], programs: Iterable[ProgramRecord]) -> None:
        # Whoever asks: it would inherit that from a daemon thread, and the interpreter must wait for it.
        thread = threading.Thread(target=target, args=(programs,), name="aot-load", daemon=False)
        with self._lock:
            self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]
            thread.start()

    def _load_all(self, programs: Iterable[ProgramRecord]) -> None:
        if self._load(programs) and self._policy == "strict":  # which reads nothing else
            self._bundle = replace(self._bundle, held={})

    def _load(self, programs: Iterable[ProgramRecord]) -> bool:
        """Whether all that fits this machine is loaded now."""
        whole = True
        try:
            for program in programs:
                # The interpreter waits for this thread when it ends, as the loader must not lose its client meanwhile.
                if self._closed or not threading.main_thread().is_alive():
                    return False
                if entries.fitting_executable(program) is not None:
                    whole &= self._load_one(program)
        except AotError as error:  # the record of a program, or of a chain
            log.info("nothing more is loaded ahead: %s", error)
            return False
        return whole

    def _load_one(self, program: ProgramRecord) -> bool:
        try:
            self.of(program)
        except AotError as error:
            log.info("program %s was not loaded ahead: %s", program.name, error)
            return False
        return True

    def _make(self, program: ProgramRecord, future: "Future[Executable]") -> None:
        try:
            future.set_result(self._ready(program))
        except BaseException as error:
            with self._lock:
                del self._made[program.digest]  # to be tried again by the next
            future.set_exception(error)

    def _ready(self, program: ProgramRecord) -> Executable:
        record = entries.fitting_executable(program)
        if record is not None:
            return self._client.load(self._bundle.read(record.digest, record.bytes), program)
        cause = entries.misfit_of_program(program)
        expiry.check_expiry(self._bundle, f"program {program.name}: {cause}")
        if self._policy != "compile":
            raise MachineError(
                f"bundle {self._bundle.path}: no executable for this machine: program {program.name}: {cause}; "
                "rebuild for this target, or load with policy='compile'"
            )
        log.warning("compiling program %s (%s): %s", program.name, program.digest, cause)
        return self._client.compile(self._bundle.read(program.digest, program.bytes), program)
