"""`aot plan`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aot import plan as plans
from aot.cli import output, placement
from aot.plan import Plan

if TYPE_CHECKING:
    from aot.builder.lower import Counted


@click.command("plan", epilog=output.examples("aot plan manifests/tiny.yaml"))
@click.argument("manifest", type=click.Path(path_type=Path))
@output.as_json
def command(manifest: Path, as_json: bool) -> None:
    """Show every combo that MANIFEST expands to, its key, how many programs and compiles it takes, and on a mesh how
    every array lies and what each device holds.

    Nothing is compiled, and of weights no more than the headers of their files is read. Remarks say which requests
    would be padded to more than twice their size, and what this version cannot build.
    """
    plan = plans.resolve(plans.read(manifest))
    part, left_out = plans.countable(plan)
    counted = _count(part)
    numbers = {"programs": counted.programs, "compiles": counted.compiles} if counted else {}
    footprints = counted.footprints if counted else ()
    if as_json:
        combos = [{"key": combo.key, **combo.dimensions()} for combo in plan.combos]
        none = {"programs": 0, "compiles": 0}
        meshes = [placement.document(each) for each in footprints]
        output.document({"combos": combos, **(numbers or none), "meshes": meshes})
    else:
        _print(plan, numbers)
        for each in footprints:
            placement.show(each)
    not_counted = (f"not counted: {what}" for what in left_out)
    laid = (remark for each in footprints for remark in placement.remarks(each))
    for remark in (*plans.waste(plan), *plans.unsupported(plan), *plans.uninstalled(plan), *not_counted, *laid):
        click.echo(f"remark: {remark}", err=as_json)


def _count(plan: Plan) -> "Counted | None":
    if not plan.combos:
        return None
    from aot.builder import build

    return build.count(plan)


def _print(plan: Plan, counted: Mapping[str, int]) -> None:
    console = output.console()
    console.print(output.combos("key", [(combo.key, combo.dimensions()) for combo in plan.combos]))
    numbers = [output.count(number, name) for name, number in {"combos": len(plan.combos), **counted}.items()]
    targets = "; ".join(map(output.target, plan.targets)) or "no targets"
    console.print(f"{', '.join(numbers)} ({targets})", soft_wrap=True)
    if plan.model.quantization:
        sizes = (f"{dtype} {output.size(size)}" for dtype, size in sorted(plans.stored(plan).items()))
        console.print(f"weights, quantized to {plan.model.quantization}: {', '.join(sizes)}", soft_wrap=True)
