"""`aot plan`."""

from collections.abc import Mapping
from pathlib import Path

import click

from aot import plan as plans
from aot.cli import output
from aot.plan import Plan


@click.command("plan", epilog=output.examples("aot plan manifests/tiny.yaml"))
@click.argument("manifest", type=click.Path(path_type=Path))
@output.as_json
def command(manifest: Path, as_json: bool) -> None:
    """Show every combo that MANIFEST expands to, its key, and how many programs and compiles it takes.

    Nothing is compiled, and of weights no more than the headers of their files is read. Remarks say which requests
    would be padded to more than twice their size, and what this version cannot build.
    """
    plan = plans.resolve(plans.read(manifest))
    part, left_out = plans.countable(plan)
    counted = _count(part)
    if as_json:
        output.document({"combos": [{"key": combo.key, **combo.dimensions()} for combo in plan.combos], **counted})
    else:
        _print(plan, counted if part.combos else {})
    not_counted = (f"not counted: {what}" for what in left_out)
    for remark in (*plans.waste(plan), *plans.unsupported(plan), *not_counted):
        click.echo(f"remark: {remark}", err=as_json)


def _count(plan: Plan) -> dict[str, int]:
    if not plan.combos:
        return {"programs": 0, "compiles": 0}
    from aot.builder import build

    counted = build.count(plan)
    return {name: counted[name] for name in ("programs", "compiles")}


def _print(plan: Plan, counted: Mapping[str, int]) -> None:
    console = output.console()
    console.print(output.combos("key", [(combo.key, combo.dimensions()) for combo in plan.combos]))
    numbers = [output.count(number, name) for name, number in {"combos": len(plan.combos), **counted}.items()]
    targets = "; ".join(map(output.target, plan.targets)) or "no targets"
    console.print(f"{', '.join(numbers)} ({targets})", soft_wrap=True)
    if plan.model.quantization:
        sizes = (f"{dtype} {output.size(size)}" for dtype, size in sorted(plans.stored(plan).items()))
        console.print(f"weights, quantized to {plan.model.quantization}: {', '.join(sizes)}", soft_wrap=True)
