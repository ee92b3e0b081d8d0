"""Tuning: XLA tries out on the device how programs are best computed, and its choices become files for builds."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aot import devices, digest
from aot.builder.compiling import tuning
from aot.builder.report import Report
from aot.builder.stages import build, executables, releases
from aot.builder.tasks.tune import Tune
from aot.builder.workers import Worker
from aot.bundle.index.records import ProgramRecord
from aot.bundle.writer import Writer
from aot.errors import AotError, InputError, MachineError
from aot.replacing import replacing
from aot.runtime.fitting import machine
from aot.targets import CudaTarget, Target
from aot.tuning import Tuning

if TYPE_CHECKING:
    from aot.plan import Plan

_ENVIRONMENT = {"JAX_PLATFORMS": "cuda,cpu", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclass(frozen=True)
class Tuned:
    """A tuning that was written."""

    target: Target
    path: Path
    digest: str
    """The digest of the blob that bundles will have of it."""
    choices: int


def tune(plan: "Plan", jobs: int, report: Report) -> tuple[Tuned, ...]:
    """Writes the tuning of each target that names one, once a build without the device takes all of them.

    Raises InputError where no target names one, MachineError where this machine has not the devices, AotError for
    choices that are of no use without the device. Nothing is written then.
    """
    releases.check_supported()
    targets = [target for target in plan.targets if isinstance(target, CudaTarget) and target.tuning is not None]
    if not targets:
        raise InputError("tune: no target names a tuning; give one a path: {cuda: {device: h200, tuning: h200.json}}")
    for target in targets:
        _check(target)
    build.check_machine(targets)
    with tempfile.TemporaryDirectory(prefix="aot-") as home, Writer.stage(Path(home, "tuned")) as writer:
        part = replace(plan, platforms=("cuda",), targets=tuple(targets))
        programs = build.lower_plan(part, writer, report).programs
        found = [_tuned(target, programs, writer, report) for target in targets]
        blobs = [writer.add(each.to_bytes()) for each in found]
        proven = [tuning.with_tuning(tuning.without(t), blob) for t, blob in zip(targets, blobs, strict=True)]
        _prove(proven, programs, writer, jobs, report)
    return tuple(map(_written, targets, found))


def _check(target: CudaTarget) -> None:
    """Raises MachineError where this machine has not the devices of a target, InputError for no place to write to."""
    needed, kinds = target.devices or 1, devices.find_gpu(target.device).kinds
    here = [device.kind for device in machine.accelerators_of("cuda").devices]
    if sum(kind in kinds for kind in here) < needed:
        found = ", ".join(sorted(set(here))) or "no NVIDIA GPU"
        raise MachineError(
            f"target cuda {target.device}: is tuned on {needed} of it, this machine has {found}; "
            "run `aot tune` where it is"
        )
    path = tuning.path(target)
    assert path is not None
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path.parent}: is no directory that can be written; name another place for the tuning")


def _tuned(target: CudaTarget, programs: Sequence[ProgramRecord], writer: Writer, report: Report) -> Tuning:
    """What the device chose for all programs of a target, one after the other: what two share is chosen once."""
    mine = [program for program in programs if executables.is_for(program, target)]
    text = f"version: {tuning.RESULTS}"
    with report.step("tune", len(mine)) as progress, Worker(_ENVIRONMENT) as worker:
        for program in mine:
            text = worker.request(Tune(program.digest, program.mesh, replace(target, tuning=None), writer.root))
            progress(program.name)
    return tuning.collected(text, target.device)


def _prove(
    targets: Sequence[Target], programs: Sequence[ProgramRecord], writer: Writer, jobs: int, report: Report
) -> None:
    """Compiles as a build would. Raises AotError where the tunings do not suffice for that."""
    try:
        executables.compile_all(targets, programs, writer, jobs, report)
    except InputError as error:
        raise AotError(
            f"tune: the device chose for other operations than a build without it has: {error}; nothing was written; "
            "report it"
        ) from error


def _written(target: Target, found: Tuning) -> Tuned:
    path, data = tuning.path(target), found.to_bytes()
    assert path is not None
    with replacing(path) as stream:
        stream.write(data)
    return Tuned(tuning.without(target), path, digest.digest_of(data), len(found.choices))
