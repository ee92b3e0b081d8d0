"""Tries out how a program is best computed, in a worker that has the device."""

import math
from dataclasses import dataclass
from pathlib import Path

from aot.builder import settings
from aot.builder.compiling import compile, cuda
from aot.builder.pace import Progress
from aot.builder.tasks.task import Task
from aot.bundle.index.bounds import Mesh
from aot.bundle.writer import Writer
from aot.errors import MachineError
from aot.targets import CudaTarget


@dataclass(frozen=True)
class Tune(Task[str]):
    """Tries out how the program with this digest, in a staged bundle, is best computed on a target's devices."""

    name = "tune"
    apart = True

    program: str
    mesh: Mesh
    target: CudaTarget
    staging: Path

    def perform(self, progress: Progress) -> str:
        """What XLA chose here, in its own words."""
        return choose_on_device(self.program, self.mesh, self.target, Writer.join(self.staging))


def choose_on_device(program: str, mesh: Mesh, target: CudaTarget, writer: Writer) -> str:
    """What XLA chooses on this machine's devices for the program with this digest, and chose before."""
    import jax

    settings.apply()
    number = math.prod(size for _, size in mesh)
    found = cuda.present(target, number)
    if len(found) < number:
        raise MachineError(f"target cuda {target.device}: jax finds {len(found)} of {number}; run `aot tune` elsewhere")
    try:
        return cuda.tried_choices(compile.lowered_for(writer.read(program), mesh, found), target)
    except jax.errors.JaxRuntimeError as error:
        raise compile.refusal(program, target, str(error)) from error
