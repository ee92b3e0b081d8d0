"""The stage that compiles: an executable for each program and target, from the cache or from a pool of workers."""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aot.builder import pace
from aot.builder.compiling import compile, cpu, memory
from aot.builder.reuse import identity
from aot.builder.reuse.cache import Cache, Factors
from aot.builder.tasks.executable import Compile
from aot.builder.workers import Worker
from aot.bundle.index import codec, records
from aot.bundle.index.records import ExecutableRecord, ProgramRecord
from aot.bundle.writer import Writer
from aot.targets import Target

if TYPE_CHECKING:
    from aot.builder.report import Report


def compile_all(
    targets: Sequence[Target],
    programs: Sequence[ProgramRecord],
    writer: Writer,
    jobs: int,
    report: "Report",
    cache: Cache | None = None,
) -> tuple[ProgramRecord, ...]:
    """The programs of the writer with an executable for each target of their platform.

    Without a cache each is compiled; with one, those that it lacks, and they are kept in it as they come.
    """
    with Compiler(targets, writer, jobs, cache) as compiler:
        for program in programs:
            compiler.add(program)
        return compiler.finish(programs, report)


def is_for(program: ProgramRecord, target: Target) -> bool:
    """Whether a program was lowered for the platform and the mesh of a target."""
    return program.platform == target.platform and dict(program.mesh) == target.mesh


_Place = tuple[str, int]
"""What names an executable of a build: the digest of its program, and the position of its target."""


@dataclass(frozen=True)
class _Job:
    """A program to be compiled for the target at a position."""

    program: ProgramRecord
    target: int

    @property
    def place(self) -> _Place:
        return self.program.digest, self.target

    @property
    def peak(self) -> int:
        return memory.peak(self.program.bytes, self.program.platform)

    @property
    def cost(self) -> float:
        return pace.compile_cost(self.program.bytes)


class Compiler:
    """Compiles programs as they come, for each target of their platform and mesh, in a pool of workers.

    As many at a time as there are jobs, where memory suffices: the largest of those that have come, but those for the
    target that a worker was started for before others. The first failure ends all. A context manager: leaving it ends
    the workers, whatever they are at.
    """

    def __init__(self, targets: Sequence[Target], writer: Writer, jobs: int, cache: Cache | None = None) -> None:
        self._targets, self._writer, self._jobs, self._cache = targets, writer, jobs, cache
        self._room = memory.Room()
        self._changed = threading.Condition()  # guards all of the following
        self._waiting: list[_Job] = []
        self._running: list[_Job] = []
        self._compiled: list[_Job] = []
        self._records: dict[_Place, ExecutableRecord] = {}
        self._threads: list[threading.Thread] = []
        self._workers: list[Worker] = []
        self._failure: BaseException | None = None
        self._closed = False

    def __enter__(self) -> "Compiler":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            workers = list(self._workers)
        for worker in workers:
            worker.__exit__()
        for thread in self._threads:
            thread.join()

    def add(self, program: ProgramRecord) -> None:
        """Begins with a program that lies in the writer. Raises what an earlier one failed with."""
        for t, target in enumerate(self._targets):
            job = _Job(program, t)
            if not is_for(program, target) or self._knows(job):
                continue
            if kept := self._cache and self._cache.read(self._factors(job)):
                self._writer.add(kept.data)
                self._records[job.place] = codec.restored(ExecutableRecord, kept.record)
            else:
                self._begin(job)

    def fail(self, error: BaseException) -> None:
        """Makes `add` and `finish` raise an error, unless there was one before."""
        with self._changed:
            self._failure = self._failure or error
            self._waiting.clear()
            self._changed.notify_all()

    def finish(self, programs: Sequence[ProgramRecord], report: "Report") -> tuple[ProgramRecord, ...]:
        """All that were added, with their executables once these are made. Raises what one of them failed with."""
        with self._changed:
            early = len(self._compiled)
            rest = [*self._waiting, *self._running]
            kept = len(self._records) - early
        clock, total = pace.Pace(sum(job.cost for job in rest)), kept + early + len(rest)
        with report.step("compile", total, kept) as progress:
            for count in range(total - kept):
                job = self._ended(count)
                progress(job.program.name, None if count < early else clock.left(job.cost))
        self._writer.include(records.BlobRecord(record.digest, record.bytes) for record in self._records.values())
        return tuple(replace(program, executables=tuple(self._executables(program))) for program in programs)

    def _executables(self, program: ProgramRecord) -> Iterator[ExecutableRecord]:
        places = (_Job(program, t).place for t in range(len(self._targets)))
        return (self._records[place] for place in places if place in self._records)

    def _ended(self, count: int) -> _Job:
        """The job that ended after so many others."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or len(self._compiled) > count)
            self._raise_failure()
            return self._compiled[count]

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _knows(self, job: _Job) -> bool:
        with self._changed:
            self._raise_failure()
            return job.place in self._records or any(job.place == j.place for j in (*self._waiting, *self._running))

    def _begin(self, job: _Job) -> None:
        with self._changed:
            self._waiting.append(job)
            if len(self._threads) < min(self._jobs, len(self._waiting) + len(self._running)):
                thread = threading.Thread(target=self._work, args=(len(self._threads),), name="aot-compile")
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()

    def _work(self, number: int) -> None:
        """What each thread does: it has a worker, for one target at a time."""
        target, worker = -1, None
        try:
            while job := self._next(target):
                if worker is None or job.target != target:
                    if worker is not None:
                        worker.__exit__()
                    target, worker = job.target, self._start(job.target, number)
                self._keep(job, worker.request(self._task(job)))
        except BaseException as error:  # to be raised by the builder's thread
            self.fail(error)
        finally:
            if worker is not None:
                worker.__exit__()

    def _next(self, target: int) -> _Job | None:
        """What to compile next, with a worker for a target if it may be; None at the end."""

        def chosen() -> _Job | None:
            best = min(self._waiting, key=lambda job: (job.target != target, job.target, -job.peak), default=None)
            return best if best and self._room.holds([j.peak for j in self._running], best.peak) else None

        with self._changed:
            self._changed.wait_for(lambda: self._closed or chosen())
            if self._closed or (job := chosen()) is None:
                return None
            self._waiting.remove(job)
            self._running.append(job)
            return job

    def _keep(self, job: _Job, record: ExecutableRecord) -> None:
        if self._cache is not None:
            self._cache.write(self._factors(job), codec.plain(record), self._writer.read(record.digest))
        with self._changed:
            self._running.remove(job)
            self._records[job.place] = record
            self._compiled.append(job)
            self._changed.notify_all()

    def _factors(self, job: _Job) -> Factors:
        return identity.executable(job.program.digest, self._targets[job.target])

    def _task(self, job: _Job) -> Compile:
        return Compile(job.program.digest, job.program.mesh, self._targets[job.target], self._writer.root)

    def _start(self, target: int, number: int) -> Worker:
        """A worker for a target, which ends with its thread or with all of this, whichever is first."""
        variables = compile.environment(self._targets[target])
        worker = Worker({**variables, cpu.CORE: str(os.getpid() + number)})
        with self._changed:
            self._workers.append(worker)
            if self._closed:
                worker.__exit__()
        return worker
