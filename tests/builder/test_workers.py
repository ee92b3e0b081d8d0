"""The processes that lower and compile: what one did before never shows, and its log says why it died."""

import os
from collections.abc import Iterator
from pathlib import Path

import faulty_models
import pytest

from aot import plan as plans
from aot.builder import workers
from aot.builder.compiling import compile
from aot.builder.tasks.executable import Compile
from aot.builder.tasks.programs import Count, Lower
from aot.builder.workers import Worker
from aot.bundle.writer import Writer
from aot.errors import AotError
from aot.plan import Plan
from aot.targets import CpuTarget

TARGET = CpuTarget("avx2", 2)
NOISE = b"Function in CSV file at line 7 does not exist.\n"


def plan(home: Path, change: str = "") -> Plan:
    (home / f"model_{home.name}.py").write_text(faulty_models.GOOD + change)
    model = f"model: {{factory: 'model_{home.name}:make'}}"
    text = f"name: own\n{model}\nprecompile: {{batch_size: [1, 4]}}\nplatforms: [cpu]\n"
    (home / "manifest.yaml").write_text(text)
    return plans.resolve(plans.read_manifest(home / "manifest.yaml"))


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with Writer.stage(tmp_path / "bundle") as staged:
        yield staged


def compiled(worker: Worker, program: str, writer: Writer) -> str:
    return worker.request(Compile(program, (), TARGET, writer.root)).digest


def test_an_executable_does_not_depend_on_what_its_worker_compiled_before(tmp_path: Path, writer: Writer) -> None:
    with Worker() as worker:
        lowered = worker.request(Lower(plan(tmp_path), writer.root))
    one, other = (program.digest for program in lowered.programs)
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
            worker.request(Count(plan(tmp_path)))


CRASH = """\
F1129 23:34:40.271594    5477 pjrt_client.cc:12] Check failed: cores > 0 (0 vs. 0) no cores
*** Check failure stack trace: ***
    @     0x7f2a1c0d3f1a  absl::lts_20260107::log_internal::LogMessage::Fail()
    @     0x7f2a1c0d3e85  absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (CRASH, CRASH.splitlines()[0]),
        ("first\n#0 0x1 main a.cc:1\n#1 0x2 start\n", "first"),
        ("Fatal Python error: Segmentation fault\n\nThread 0x7f (most recent call first):\n  File 'a'\n", "Fatal Pyth"),
        ("Traceback (most recent call last):\n  File 'a', line 1\nValueError: the cause\n", "ValueError: the cause"),
        ("    @     0x7f2a1c0d3f1a  main", "@     0x7f2a1c0d3f1a  main"),
        ("", "no message"),
    ],
)
def test_the_cause_of_a_crash_is_what_was_fatal_and_no_frame_of_its_stack(log: str, cause: str) -> None:
    assert workers.cause_of_death([line for line in log.splitlines() if line.strip()]).startswith(cause)


def test_a_worker_imports_from_the_directories_of_pythonpath_wherever_they_are_named_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "layer").mkdir()
    (tmp_path / "layer" / "of_a_layer.py").write_text("WORD = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}:layer:")
    with Worker() as worker:
        worker.request(Count(plan(tmp_path, "\nimport of_a_layer\nassert of_a_layer.WORD == 3\n")))


def test_names_that_are_not_utf_8_come_through_to_a_worker_and_back(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    with Worker() as worker, pytest.raises(AotError, match=f"{odd}/blobs/sha256/0+: No such file or directory"):
        compiled(worker, f"sha256:{'0' * 64}", Writer.join(tmp_path / odd))


def test_the_log_of_a_worker_does_not_grow_from_task_to_task(tmp_path: Path) -> None:
    with Worker() as worker:
        given = plan(tmp_path, "\nimport sys\nprint('said' * 1000, file=sys.stderr)\nModel.weights = print\n")
        worker.request(Count(given))
        after_one = os.fstat(worker._log.fileno()).st_size
        os.write(worker._log.fileno(), b"new")

        assert after_one == 0
        assert os.fstat(worker._log.fileno()).st_size == 3
