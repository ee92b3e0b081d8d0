"""The stage that compiles: an executable for each program and target, from the cache or from a pool of workers."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING

from aot.builder import pace
from aot.builder.compiling import compile, cpu, memory
from aot.builder.reuse import identity
from aot.builder.reuse.cache import Cache
from aot.builder.tasks.executable import Compile
from aot.builder.workers import Worker
from aot.bundle.index import codec, records
from aot.bundle.index.records import ExecutableRecord, ProgramRecord
from aot.bundle.writer import Writer
from aot.targets import Target

if TYPE_CHECKING:
    from aot.builder.report import Report

Place = tuple[int, int]
"""What names an executable of a build: the positions of its program and of its target."""


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
    work = [(i, t) for t, target in enumerate(targets) for i, p in enumerate(programs) if is_for(p, target)]
    made = {} if cache is None else _kept(work, targets, programs, writer, cache)
    report.step("compile", len(work), len(made))
    missing = [place for place in work if place not in made]
    clock = pace.Pace(sum(pace.compile_cost(programs[i].bytes) for i, _ in missing))

    def take(place: Place, record: ExecutableRecord) -> None:
        program, target = programs[place[0]], targets[place[1]]
        made[place] = record
        if cache is not None:
            factors = identity.executable(program.digest, target)
            cache.write(factors, codec.plain(record), writer.read(record.digest))
        report.advance(program.name, clock.left(pace.compile_cost(program.bytes)))

    for t, target in enumerate(targets):
        _compile([place for place in missing if place[1] == t], target, programs, writer, jobs, take)
    writer.include(records.BlobRecord(record.digest, record.bytes) for record in made.values())
    return tuple(
        replace(program, executables=tuple(made[i, t] for t in range(len(targets)) if (i, t) in made))
        for i, program in enumerate(programs)
    )


def is_for(program: ProgramRecord, target: Target) -> bool:
    """Whether a program was lowered for the platform and the mesh of a target."""
    return program.platform == target.platform and dict(program.mesh) == target.mesh


def _kept(
    work: Sequence[Place],
    targets: Sequence[Target],
    programs: Sequence[ProgramRecord],
    writer: Writer,
    cache: Cache,
) -> dict[Place, ExecutableRecord]:
    """The executables that the cache has, which are in the writer then."""
    found = {}
    for i, t in work:
        if kept := cache.read(identity.executable(programs[i].digest, targets[t])):
            writer.add(kept.data)
            found[i, t] = codec.restored(ExecutableRecord, kept.record)
    return found


def _compile(
    places: Sequence[Place],
    target: Target,
    programs: Sequence[ProgramRecord],
    writer: Writer,
    jobs: int,
    take: Callable[[Place, ExecutableRecord], None],
) -> None:
    """Compiles for one target in a pool of workers, the largest first; the first failure ends them all."""
    if not places:
        return
    sizes = {place: programs[place[0]].bytes for place in places}
    count = memory.affordable(jobs, list(sizes.values()), target.platform)
    variables = compile.environment(target)
    with ExitStack() as stack:
        idle: SimpleQueue[Worker] = SimpleQueue()
        for number in range(count):
            idle.put(stack.enter_context(Worker({**variables, cpu.CORE: str(os.getpid() + number)})))

        def run(place: Place) -> ExecutableRecord:
            worker = idle.get()
            try:
                program = programs[place[0]]
                return worker.request(Compile(program.digest, program.mesh, target, writer.root))
            finally:
                idle.put(worker)

        pool = ThreadPoolExecutor(count)
        try:
            begun = {pool.submit(run, place): place for place in sorted(places, key=lambda p: -sizes[p])}
            for future in as_completed(begun):
                take(begun[future], future.result())
        finally:
            stack.close()  # ends the workers, and with them whatever the pool still waits for
            pool.shutdown(cancel_futures=True)
