"""Makes the four kinds of digests of many plans, in one process: `python factor_lab.py JOBS RESULTS`.

Each plan is lowered, and each program compiled, in a fork of a process that has imported jax and done nothing with it,
as the builder's workers do. A job may patch what it runs on, as another version of a tool would differ.
"""

import json
import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy
import jaxlib
from jax._src.lib.mlir.dialects import hlo

from aot import digest
from aot.builder import settings
from aot.builder.compiling import compile, cpu
from aot.builder.lowering import lower
from aot.builder.stages import build, releases
from aot.builder.tasks import weights
from aot.bundle.index import codec, records
from aot.bundle.writer import Writer
from aot.plan import Plan
from aot.targets import Target


def another_jax() -> None:
    """One that spells tanh in another way."""
    jax.__version__ = "0.11.0"
    jax.numpy.tanh = lambda x: 1 - 2 / (jax.numpy.exp(2 * x) + 1)


def another_jaxlib() -> None:
    """One whose bindings give constants another sign."""
    jaxlib.__version__ = "0.11.0"
    original = hlo.constant

    def constant(value: Any, **options: Any) -> Any:
        return hlo.negate(original(value, **options))

    hlo.constant = constant


def another_compiler() -> None:
    jaxlib.__version__ = "0.11.0"
    another_code()


def another_code() -> None:
    """A compiler that optimizes otherwise, and does not say so."""
    original = cpu.compiled

    class Lowered:
        def __init__(self, lowered: Any) -> None:
            self._lowered = lowered

        def compile(self, options: Any = None) -> Any:
            return self._lowered.compile({"xla_backend_optimization_level": 0})

    cpu.compiled = lambda lowered, target: original(Lowered(lowered), target)


def another_flag() -> None:
    original = cpu.flags
    cpu.flags = lambda target: (*original(target), "--xla_backend_optimization_level=0")


def another_choice() -> None:
    """A device that chose otherwise; here only the record of it and other code."""
    original = compile.executable

    def executable(*arguments: Any) -> records.ExecutableRecord:
        another_code()
        return replace(original(*arguments), tuning=records.BlobRecord(digest.digest_of(b"choices"), 7))

    compile.executable = executable


def another_setting() -> None:
    settings.LOWERING = {**settings.LOWERING, "jax_default_matmul_precision": "highest"}


def another_window() -> None:
    """A release whose day we had wrong."""
    days = releases.release_days()
    releases.release_days = lambda: dict.fromkeys(days, "2029-07-01")


LOWERING: dict[str, Callable[[], None]] = {
    "jax": another_jax,
    "jaxlib": another_jaxlib,
    "settings": another_setting,
    "validity": another_window,
}
COMPILING: dict[str, Callable[[], None]] = {
    "compiler": another_compiler,
    "tuning": another_choice,
    "flags": another_flag,
    "executables": another_code,
}
RECORDS: dict[str, dict[str, Any]] = {
    "format": {"format": 2},
    "origin": {"origin": digest.digest_of(b"another bundle")},
}


def forked(task: Callable[[], Any]) -> Any:
    """What a task gives in a child process."""
    with tempfile.NamedTemporaryFile() as file:
        if (child := os.fork()) == 0:
            status = 1
            try:
                Path(file.name).write_bytes(pickle.dumps(task()))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise SystemExit("a job failed")
        return pickle.loads(Path(file.name).read_bytes())


def lowered(job: dict[str, Any], writer: Writer) -> records.Index:
    LOWERING.get(job["patch"], lambda: None)()
    plan: Plan = job["plan"]
    made = lower.lower_programs(plan, writer, lambda *_: None)
    measured = (
        weights.measure_weights(plan, lambda *_: None).record if job["weights"] else records.WeightsRecord((), {})
    )
    index = build.build_index(plan, made, measured, writer, releases.installed().valid_until)
    return replace(index, **RECORDS.get(job["patch"], {}))


def compiled(
    job: dict[str, Any], writer: Writer, program: records.ProgramRecord, target: Target
) -> records.ExecutableRecord:
    COMPILING.get(job["patch"], lambda: None)()
    os.environ.update(compile.environment(target))
    os.chdir(writer.root)
    return compile.executable(program.digest, program.mesh, target, writer)


def digests(job: dict[str, Any], known: dict[Any, records.ExecutableRecord]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home, Writer.stage(Path(home, "bundle")) as writer:
        index = forked(lambda: lowered(job, writer))
        targets = job["plan"].targets
        programs = []
        for program in index.programs:
            executables = []
            for target in [target for target in targets if program.platform == target.platform]:
                # The compile key: an unpatched compiler is asked once for the same.
                key = (program.digest, str(target), job["patch"] if job["patch"] in COMPILING else "")
                if key not in known:
                    known[key] = forked(lambda p=program, t=target: compiled(job, writer, p, t))
                executables.append(known[key])
            programs.append(replace(program, executables=tuple(executables)))
        index = replace(index, programs=tuple(programs))
    return {
        "key": sorted(combo.key for combo in index.combos),
        "program": sorted(program.digest for program in index.programs),
        "executable": sorted({e.digest for program in index.programs for e in program.executables}),
        "bundle": digest.digest_of(codec.encode(index)),
    }


if __name__ == "__main__":
    jobs, known = pickle.loads(Path(sys.argv[1]).read_bytes()), {}
    Path(sys.argv[2]).write_text(json.dumps([digests(job, known) for job in jobs]))
