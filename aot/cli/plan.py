"""`aot plan`."""

from pathlib import Path
from typing import Any

import click

from aot import plan as plans
from aot.cli import output
from aot.precompile import Combo


@click.command("plan")
@click.argument("manifest", type=click.Path(path_type=Path))
@output.as_json
def command(manifest: Path, as_json: bool) -> None:
    """Show every combo that MANIFEST expands to, its key, and how many programs and compiles it takes.

    Nothing is compiled, and no weights are read.
    """
    from aot.builder import build

    plan = plans.resolve(plans.read(manifest))
    counted = build.count(plan) if _countable(plan) else {"programs": 0, "compiles": 0}
    if as_json:
        output.document({"combos": [{"key": c.key, **c.dimensions()} for c in plan.combos], **counted})
        return
    _print(plan, counted)


def _countable(plan: Any) -> bool:
    return True


def _print(plan: Any, counted: Any) -> None:
    console = output.console()
    shown = [name for name in plan.combos[0].dimensions() if any(_value(combo, name) for combo in plan.combos)]
    table = output.table("key", *shown, right=tuple(shown))
    for combo in plan.combos:
        table.add_row(combo.key, *(str(_value(combo, name) or "") for name in shown))
    console.print(table)
    targets = ", ".join(output.target(target) for target in plan.targets)
    console.print(
        f"{len(plan.combos)} combos, {counted['programs']} programs, {counted['compiles']} compiles ({targets})"
    )
    for remark in plans.waste(plan):
        console.print(f"remark: {remark}")


def _value(combo: Combo, name: str) -> Any:
    return combo.dimensions()[name]
