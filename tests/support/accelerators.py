"""Targets that are not there: what compiles for them, and machines that have them."""

from pathlib import Path
from typing import Any

import pytest
import toy

from aot import extras
from aot import plan as plans
from aot.builder.compiling import compile
from aot.builder.tasks.executable import Compile
from aot.builder.tasks.programs import Lower
from aot.builder.workers import Worker
from aot.bundle.index.records import ExecutableRecord, ProgramRecord
from aot.bundle.writer import Writer
from aot.runtime.fitting.machine import Accelerator
from aot.targets import Target

GPU = Accelerator("NVIDIA H200", "9.0")
WHEELS = {"jax-cuda13-plugin": "0.10.2", "jax-cuda13-pjrt": "0.10.2", "libtpu": "0.0.42.1"}


def needing(platform: str) -> Any:
    """Marks of a test that compiles for a platform."""
    lacking = extras.missing_extra(platform)
    return [getattr(pytest.mark, platform), pytest.mark.skipif(lacking is not None, reason=str(lacking))]


def lowered(home: Path, writer: Writer, target: Target) -> ProgramRecord:
    """The toy's program for a target's platform and mesh."""
    path = toy.manifest(home)
    text = path.read_text().replace("[cpu]", f"[{target.platform}]")
    mesh = target.mesh or {"data": 1}
    text += f"targets: []\npartition: {{mesh: {mesh}, rules: [[input/x, [data]], [.*, []]]}}\n"
    path.write_text(text.replace("'", '"'))
    plan = plans.resolve(plans.read_manifest(path))
    with Worker() as worker:
        made = worker.request(Lower(plan, writer.root))
    (program,) = made.programs
    return program


def compiled(program: ProgramRecord, target: Target, writer: Writer) -> ExecutableRecord:
    with Worker(compile.environment(target)) as worker:
        return worker.request(Compile(program.digest, program.mesh, target, writer.root))
