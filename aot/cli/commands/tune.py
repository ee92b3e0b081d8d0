"""`aot tune`."""

from pathlib import Path

import click

from aot import plan as plans
from aot.builder.stages import tune
from aot.cli import output
from aot.cli.progress import Display


@click.command("tune", epilog=output.examples_epilog("aot tune manifest.yaml"))
@click.argument("manifest", type=click.Path(path_type=Path))
@output.jobs_option
@output.as_json
def command(manifest: Path, jobs: int, as_json: bool) -> None:
    """Write the file of every target of MANIFEST that names a tuning: what XLA chooses when it tries out on the
    device how the programs are best computed.

    This machine must have the devices. `aot build` replays the files on any machine, and chooses nothing itself.
    A file is only written once builds without the device can be made from it.
    """
    plan = plans.resolve(plans.read_manifest(manifest))
    with Display() as display:
        written = tune.tune(plan, jobs, display)
    rows = [{**vars(each), "target": each.target.plain(), "path": str(each.path)} for each in written]
    if as_json:
        output.print_document({"tunings": rows})
        return
    for each in written:
        click.echo(
            f"{output.spelled_target(each.target.plain())}: {output.counted(each.choices, 'choices')}, {each.path}"
        )
