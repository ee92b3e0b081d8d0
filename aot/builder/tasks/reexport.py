"""Exporting stored programs anew with the installed jax, from their StableHLO alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aot.builder import pace, settings
from aot.builder.compiling import canonical
from aot.builder.tasks.task import Task
from aot.bundle.index.records import ProgramRecord
from aot.bundle.writer import Writer


@dataclass(frozen=True)
class Reexported:
    """Programs as the installed jax exports them, without executables, in the order in which they were given."""

    programs: tuple[ProgramRecord, ...]
    refused: str | None
    """Why the installed jax does not take one of them; then there are none."""
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Reexport(Task[Reexported]):
    """Exports programs of a staged bundle anew, into further blobs of it."""

    name = "reexport"

    programs: tuple[ProgramRecord, ...]
    waivers: tuple[str, ...]
    """Custom calls that are allowed."""
    staging: Path

    def perform(self, progress: pace.Progress) -> Reexported:
        """What the installed jax exports."""
        return reexport_programs(self.programs, self.waivers, Writer.join(self.staging), progress)


def reexport_programs(
    given: Sequence[ProgramRecord], waivers: Sequence[str], writer: Writer, progress: pace.Progress
) -> Reexported:
    """Exports programs anew into blobs, in this process."""
    import jax
    import jaxlib

    settings.apply()
    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
    made: list[ProgramRecord] = []
    clock = pace.Pace(sum(record.bytes for record in given))
    for record in given:
        try:
            data = _exported(record, writer.read(record.digest), waivers)
        except Exception as error:  # whatever jax and its compiler say to bytes that they do not take
            cause = " ".join(str(error).split())[:300]
            return Reexported((), f"program {record.name} for {record.platform}: {cause}", versions)
        canonical.check_paths(data, f"program {record.name}")
        blob = writer.add(data)
        made.append(replace(record, digest=blob.digest, bytes=blob.bytes, executables=()))
        progress(f"{record.name} for {record.platform}", clock.left(record.bytes))
    return Reexported(tuple(made), None, versions)


def _exported(record: ProgramRecord, data: bytes, waivers: Sequence[str]) -> bytes:
    import jax
    from jax import export

    from aot.runtime.device import exports

    stored, mesh = exports.read_export(data), exports.abstract_mesh(record.mesh)

    def function(donated: Mapping[str, Any], kept: Mapping[str, Any]) -> Any:
        return stored.call(donated, kept)

    function.__name__ = function.__qualname__ = record.name
    results = jax.tree.unflatten(stored.out_tree, stored.out_shardings_jax(mesh))
    jitted, arguments = exports.jit_export(stored, stored.in_shardings_jax(mesh), function, results)
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in waivers]
    made = export.export(jitted, platforms=[record.platform], disabled_checks=checks)(*arguments)
    if _contract(made, mesh) != _contract(stored, mesh):
        raise ValueError("its calling contract changes")
    return bytes(made.serialize())


def _contract(exported: Any, mesh: Any) -> tuple[Any, ...]:
    trees = exported.in_tree, exported.in_avals, exported.out_tree, exported.out_avals
    return *trees, exported.nr_devices, exported.in_shardings_jax(mesh), exported.out_shardings_jax(mesh)
