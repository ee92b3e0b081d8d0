"""`aot plan`."""

import datetime
import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aot import plan as plans
from aot.builder.lowering import footprint
from aot.builder.pace import Progress
from aot.builder.stages import build, releases, tokenizer
from aot.cli import model_line, output, placement_table, progress, shapes_table
from aot.plan import Manifest, Plan

if TYPE_CHECKING:
    from aot.builder.lowering.lower import Counted


@click.command("plan", epilog=output.examples_epilog("aot plan manifests/tiny.yaml"))
@click.argument("manifest", type=click.Path(path_type=Path))
@output.jax_released
@output.as_json
def command(manifest: Path, jax_released: datetime.date | None, as_json: bool) -> None:
    """Show every combo that MANIFEST expands to, its key, how many programs and compiles it takes, what images take of
    a prompt, on a mesh how every array lies and what each device holds, until when programs will be readable, and what
    was found of the model.

    Nothing is compiled, and of weights no more than the headers of their files is read. Remarks say which requests
    would be padded to more than twice their size, which pictures would be much distorted, which combos of a product
    can serve no request, what becomes of a tokenizer without tokenizer.json, that the tokenizer names another EOS than
    the model's files, that weights and state nearly fill the devices of a target, and that programs have expired or
    soon will. More than such devices have is an error.
    """
    begin = time.perf_counter()
    given = plans.read_manifest(manifest)
    plan = plans.resolve(given)
    release = releases.installed(jax_released)
    late = releases.expiry_remarks(release)
    with progress.show_waiting("counting programs") as say:
        counted = build.count_plan(plan, _told(say, len(plan.combos)))
    numbers = {"programs": counted.programs, "compiles": counted.compiles}
    remarks = (*_remarks(given, plan, counted), *late)
    if as_json:
        combos = [{"key": combo.key, **combo.dimensions()} for combo in plan.combos]
        meshes = [placement_table.placement_document(each) for each in counted.footprints]
        document = {"combos": combos, **shapes_table.shapes_document(plan), **numbers, "meshes": meshes}
        weights = sum(plans.weight_bytes(plan).values()) or None
        more = {"model": model_line.model_document(plan), "bytes": weights, "cached": None, "remarks": remarks}
        seconds = time.perf_counter() - begin
        output.print_document({**document, "valid_until": release.valid_until, **more, "seconds": seconds})
    else:
        _print(plan, numbers)
        for each in counted.footprints:
            placement_table.show_placement(each)
        click.echo(f"valid until {release.valid_until}")
        click.echo(model_line.model_line(plan))
    for remark in remarks:
        click.echo(f"remark: {remark}", err=as_json)


def _told(say: Callable[[str], None], combos: int) -> Progress:
    """Says how many combos are counted."""
    done = itertools.count(1)

    def hear(detail: str, left: float | None = None, total: int | None = None) -> None:
        say(f"counted {next(done)} of {combos} combos" + ("" if left is None else f", {left:.0f} s left"))

    return hear


def _remarks(given: Manifest, plan: Plan, counted: "Counted") -> tuple[str, ...]:
    laid = (remark for each in counted.footprints for remark in placement_table.placement_remarks(each))
    full = footprint.nearly_full(plan.targets, counted.footprints)
    planned = (*plan.dropped, *tokenizer.tokenizer_remarks(plan), *plans.waste(plan), *plans.endings(given, plan))
    return (*planned, *plans.uninstalled(plan), *plans.untuned(plan), *laid, *full)


def _print(plan: Plan, counted: Mapping[str, int]) -> None:
    console = output.console()
    console.print(output.combos_table("key", [(combo.key, combo.dimensions()) for combo in plan.combos]))
    shapes_table.show_shapes(plan)
    numbers = [output.counted(number, name) for name, number in {"combos": len(plan.combos), **counted}.items()]
    targets = "; ".join(output.spelled_target(target.plain()) for target in plan.targets) or "no targets"
    console.print(f"{', '.join(numbers)} ({targets})", soft_wrap=True)
    if plan.model.quantization:
        sizes = (f"{dtype} {output.spelled_size(size)}" for dtype, size in sorted(plans.weight_bytes(plan).items()))
        console.print(f"weights, quantized to {plan.model.quantization}: {', '.join(sizes)}", soft_wrap=True)
