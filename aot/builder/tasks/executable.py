"""Compiles one program for one target, in a worker started for that target."""

from dataclasses import dataclass
from pathlib import Path

from aot.builder.compiling import compile
from aot.builder.pace import Progress
from aot.builder.tasks.task import Task
from aot.bundle.index.bounds import Mesh
from aot.bundle.index.records import ExecutableRecord
from aot.bundle.writer import Writer
from aot.targets import Target


@dataclass(frozen=True)
class Compile(Task[ExecutableRecord]):
    """Compiles the program with this digest, lowered for a mesh, into a blob of a staged bundle."""

    name = "compile"
    apart = True

    program: str
    mesh: Mesh
    target: Target
    staging: Path

    def perform(self, progress: Progress) -> ExecutableRecord:
        """The record of the executable."""
        return compile.executable(self.program, self.mesh, self.target, Writer.join(self.staging))
