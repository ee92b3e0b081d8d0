"""The processes that lower and compile: what one did before never shows, and its log says why it died."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faulty_models
import pytest

from aot import plan as plans
from aot.builder import compile
from aot.builder.workers import Worker
from aot.bundle.writer import Writer
from aot.errors import AotError

TARGET = {"cpu": {"isa": "avx2", "threads": 2}}
NOISE = b"Function in CSV file at line 7 does not exist.\n"


def plan(home: Path, change: str = "") -> str:
    (home / f"model_{home.name}.py").write_text(faulty_models.GOOD + change)
    model = f"model: {{factory: 'model_{home.name}:make'}}"
    text = f"name: own\n{model}\nprecompile: {{batch_size: [1, 4]}}\nplatforms: [cpu]\n"
    (home / "manifest.yaml").write_text(text)
    return plans.resolve(plans.read(home / "manifest.yaml")).to_json()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with Writer.stage(tmp_path / "bundle") as staged:
        yield staged


def compiled(worker: Worker, program: str, writer: Writer) -> Any:
    return worker.request("compile", program=program, mesh=(), target=TARGET, staging=str(writer.root))["digest"]


def test_an_executable_does_not_depend_on_what_its_worker_compiled_before(tmp_path: Path, writer: Writer) -> None:
    with Worker() as worker:
        lowered = worker.request("lower", plan=plan(tmp_path), staging=str(writer.root))
    one, other = (program["digest"] for program in lowered["programs"])
    with Worker(compile.environment(TARGET)) as fresh, Worker(compile.environment(TARGET)) as used:
        compiled(used, one, writer)
        digests = compiled(fresh, other, writer), compiled(used, other, writer)

    assert one != other
    assert digests[0] == digests[1]


def test_a_program_that_cannot_be_read_ends_the_worker_with_the_cause(writer: Writer) -> None:
    program = writer.add(b"no program at all").digest
    with Worker(compile.environment(TARGET)) as worker, pytest.raises(AotError) as raised:
        compiled(worker, program, writer)

    assert raised.match(r"^build: a worker ended during 'compile' with status 1: [\w.]+: \w")
    assert len(str(raised.value).splitlines()) == 1


def test_the_cause_of_a_death_is_found_behind_what_llvm_says(tmp_path: Path) -> None:
    with Worker() as worker:
        os.write(worker._log.fileno(), b"LLVM ERROR: the cause\n\n" + NOISE * 100_000)
        worker._process.terminate()
        worker._process.wait()
        with pytest.raises(AotError, match=r"ended during 'count' with status -15: LLVM ERROR: the cause$"):
            worker.request("count", plan="{}")


def test_the_log_of_a_worker_does_not_grow_from_task_to_task(tmp_path: Path) -> None:
    with Worker() as worker:
        text = plan(tmp_path, "\nimport sys\nprint('said' * 1000, file=sys.stderr)\nModel.weights = print\n")
        worker.request("count", plan=text)
        after_one = os.fstat(worker._log.fileno()).st_size
        os.write(worker._log.fileno(), b"new")

        assert after_one == 0
        assert os.fstat(worker._log.fileno()).st_size == 3
