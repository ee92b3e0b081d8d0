"""`aot build`."""

from pathlib import Path

import click

from aot import plan as plans
from aot.builder import build
from aot.cli import output
from aot.cli.progress import Display


@click.command("build")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", "destination", type=click.Path(path_type=Path), help="Directory of the bundle [dist/NAME]."
)
@click.option("--replace", is_flag=True, help="Replace whatever the directory holds, by one rename.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Programs to compile at a time.")
@output.as_json
def command(manifest: Path, destination: Path | None, replace: bool, jobs: int, as_json: bool) -> None:
    """Build the bundle that MANIFEST describes, and print its digest.

    Every program is lowered for every platform and compiled for every target. A directory that already holds this
    very bundle is left as it is.
    """
    plan = plans.resolve(plans.read(manifest))
    where = destination or Path("dist", plan.name)
    with Display() as display:
        digest = build.build(plan, build.Options(where, replace, jobs), display)
    if as_json:
        output.document({"digest": digest, "path": str(where)})
    else:
        click.echo(f"bundle {where}")
        click.echo(digest)
