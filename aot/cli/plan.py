"""`aot plan`."""

import datetime
from collections.abc import Mapping
from pathlib import Path

import click

from aot import plan as plans
from aot.builder import build, releases, tokenizer
from aot.cli import output, placement, shapes
from aot.plan import Plan


@click.command("plan", epilog=output.examples("aot plan manifests/tiny.yaml"))
@click.argument("manifest", type=click.Path(path_type=Path))
@output.jax_released
@output.as_json
def command(manifest: Path, jax_released: datetime.date | None, as_json: bool) -> None:
    """Show every combo that MANIFEST expands to, its key, how many programs and compiles it takes, what images take of
    a prompt, on a mesh how every array lies and what each device holds, and until when programs will be readable.

    Nothing is compiled, and of weights no more than the headers of their files is read. Remarks say which requests
    would be padded to more than twice their size, which pictures would be much distorted, which combos of a product
    can serve no request, what becomes of a tokenizer without tokenizer.json, and that programs have expired or soon
    will.
    """
    plan = plans.resolve(plans.read(manifest))
    release = releases.installed(jax_released)
    late = releases.remarks(release)
    converted = tokenizer.remarks(plan)
    counted = build.count(plan)
    numbers = {"programs": counted.programs, "compiles": counted.compiles}
    if as_json:
        combos = [{"key": combo.key, **combo.dimensions()} for combo in plan.combos]
        meshes = [placement.document(each) for each in counted.footprints]
        document = {"combos": combos, **shapes.document(plan), **numbers, "meshes": meshes}
        output.document({**document, "valid_until": release.valid_until})
    else:
        _print(plan, numbers)
        for each in counted.footprints:
            placement.show(each)
        click.echo(f"valid until {release.valid_until}")
    laid = (remark for each in counted.footprints for remark in placement.remarks(each))
    planned = (*plan.dropped, *converted, *plans.waste(plan), *plans.uninstalled(plan), *plans.untuned(plan))
    for remark in (*planned, *laid, *late):
        click.echo(f"remark: {remark}", err=as_json)


def _print(plan: Plan, counted: Mapping[str, int]) -> None:
    console = output.console()
    console.print(output.combos("key", [(combo.key, combo.dimensions()) for combo in plan.combos]))
    shapes.show(plan)
    numbers = [output.count(number, name) for name, number in {"combos": len(plan.combos), **counted}.items()]
    targets = "; ".join(map(output.target, plan.targets)) or "no targets"
    console.print(f"{', '.join(numbers)} ({targets})", soft_wrap=True)
    if plan.model.quantization:
        sizes = (f"{dtype} {output.size(size)}" for dtype, size in sorted(plans.stored(plan).items()))
        console.print(f"weights, quantized to {plan.model.quantization}: {', '.join(sizes)}", soft_wrap=True)
