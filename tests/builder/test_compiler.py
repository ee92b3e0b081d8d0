"""The pool that compiles programs as they come: once each, in as many workers as may be, until the first failure."""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import synthetic
from reports import Heard

from aot.builder.compiling import memory
from aot.builder.reuse.cache import Cache
from aot.builder.stages import executables
from aot.builder.stages.executables import Compiler
from aot.builder.tasks.executable import Compile
from aot.bundle.index.records import ExecutableRecord, ProgramRecord
from aot.bundle.writer import Writer
from aot.errors import AotError
from aot.targets import CpuTarget, target_of

FAST, PORTABLE = (target_of({"cpu": {"isa": "avx2", "threads": 32, "arithmetic": a}}) for a in ("fast", "portable"))
LOCK = threading.Lock()


class FakeWorker:
    """Stands in for a worker: takes its time, and stores a blob that names what it was asked for."""

    alive = 0
    log: list[tuple[str, str]]
    most: int
    seconds = 0.02

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.ended = threading.Event()
        with LOCK:
            FakeWorker.alive += 1

    def __exit__(self, *exception: object) -> None:
        with LOCK:
            FakeWorker.alive -= not self.ended.is_set()
            self.ended.set()

    def request(self, task: Compile) -> ExecutableRecord:
        assert isinstance(task.target, CpuTarget)
        with LOCK:
            FakeWorker.busy += 1
            FakeWorker.most = max(FakeWorker.most, FakeWorker.busy)
            FakeWorker.log.append((task.program, task.target.arithmetic))
        killed = self.ended.wait(self.seconds)
        with LOCK:
            FakeWorker.busy -= 1
        if killed:
            raise AotError("build: a worker ended")
        if task.program == program("bad").digest:
            raise AotError("XLA refuses it")
        with LOCK:  # joined writers of one process would take the same names
            blob = Writer.join(task.staging).add(f"{task.program} {task.target.arithmetic}".encode())
        return ExecutableRecord(task.target.plain(), blob.digest, blob.bytes, (), {}, {}, {}, {})

    busy = 0


@pytest.fixture(autouse=True)
def _workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executables, "Worker", FakeWorker)
    monkeypatch.setattr(FakeWorker, "seconds", 0.02)
    FakeWorker.log, FakeWorker.most = [], 0


def program(name: str, platform: str = "cpu", size: int = 100) -> ProgramRecord:
    return ProgramRecord(synthetic.blob(name.encode()).digest, size, name, platform, (), (), (), ())


def made(compiler: Compiler, programs: list[ProgramRecord]) -> list[list[str]]:
    """The arithmetic of each program's executables, in their order."""
    finished = compiler.finish(programs, Heard())
    return [[record.target["cpu"].get("arithmetic", "fast") for record in each.executables] for each in finished]


@pytest.mark.parametrize("jobs", [1, 3])
def test_each_program_is_compiled_once_for_each_of_its_targets_whenever_and_however_often_it_comes(
    tmp_path: Path, jobs: int
) -> None:
    programs = [*(program(str(number), size=number) for number in range(6)), program("for another", "cuda")]
    with Writer.stage(tmp_path / "bundle") as writer, Compiler([FAST, PORTABLE], writer, jobs) as compiler:
        for each in programs[:4]:
            compiler.add(each)
        time.sleep(0.1)  # some are compiled, others wait
        for each in programs:
            compiler.add(each)
        found = made(compiler, programs)

    assert found == [["fast", "portable"]] * 6 + [[]]
    assert sorted(FakeWorker.log) == sorted((p.digest, a) for p in programs[:6] for a in ("fast", "portable"))
    assert FakeWorker.most == jobs
    assert FakeWorker.alive == 0


def test_what_is_kept_is_not_compiled_and_what_is_compiled_is_kept(tmp_path: Path) -> None:
    programs, told = [program(str(number)) for number in range(4)], Heard()
    for given in (programs[:3], programs):
        with (
            Writer.stage(tmp_path / "bundle") as writer,
            Compiler([FAST], writer, 2, Cache(tmp_path / "c")) as compiler,
        ):
            for each in given:
                compiler.add(each)
            compiler.finish(given, told)

    assert len(FakeWorker.log) == len({*FakeWorker.log}) == len(told.parts) == 4


def test_a_worker_stays_with_its_target_while_there_is_work_for_it(tmp_path: Path) -> None:
    programs = [program(str(number)) for number in range(5)]
    with Writer.stage(tmp_path / "bundle") as writer, Compiler([FAST, PORTABLE], writer, 1) as compiler:
        for each in programs:
            compiler.add(each)
        compiler.finish(programs, Heard())

    assert [arithmetic for _, arithmetic in FakeWorker.log] == ["fast"] * 5 + ["portable"] * 5


def one_program_failing(compiler: Compiler) -> None:
    compiler.add(program("bad"))


def weights_failing(compiler: Compiler) -> None:
    compiler.fail(AotError("XLA refuses it"))


@pytest.mark.parametrize("fail", [one_program_failing, weights_failing])
def test_the_first_failure_ends_all_within_what_is_under_way(tmp_path: Path, fail: Callable[[Compiler], None]) -> None:
    def build() -> None:
        with Writer.stage(tmp_path / "bundle") as writer, Compiler([FAST], writer, 2) as compiler:
            fail(compiler)
            for number in range(40):
                compiler.add(program(str(number)))
            compiler.finish([program("0")], Heard())

    with pytest.raises(AotError, match=r"^XLA refuses it$"):
        build()

    assert len(FakeWorker.log) < 10
    assert FakeWorker.alive == 0


def test_leaving_ends_workers_at_what_they_are_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeWorker, "seconds", 60.0)
    begun = time.monotonic()
    with Writer.stage(tmp_path / "bundle") as writer, Compiler([FAST], writer, 2) as compiler:
        for number in range(4):
            compiler.add(program(str(number)))
        while len(FakeWorker.log) < 2:
            time.sleep(0.01)

    assert time.monotonic() - begun < 30
    assert len(FakeWorker.log) == 2
    assert FakeWorker.alive == 0


def test_fewer_are_compiled_at_a_time_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2 * memory.peak(100, "cpu"))
    programs = [program(str(number)) for number in range(8)]
    with Writer.stage(tmp_path / "bundle") as writer, Compiler([FAST], writer, 5) as compiler:
        for each in programs:
            compiler.add(each)
        compiler.finish(programs, Heard())

    assert FakeWorker.most == 2
    assert len(FakeWorker.log) == 8
