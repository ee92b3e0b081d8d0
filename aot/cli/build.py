"""`aot build`."""

from pathlib import Path

import click

from aot import plan as plans
from aot.builder import build, cache, tuning
from aot.cli import output
from aot.cli.progress import Display
from aot.errors import InputError
from aot.plan import Plan


@click.command(
    "build",
    epilog=output.examples(
        "aot build manifests/tiny.yaml", "aot build manifests/tiny.yaml -o bundles/tiny --replace --jobs 4"
    ),
)
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "destination",
    type=click.Path(path_type=Path),
    help="Directory of the bundle; default: dist/NAME.",
)
@output.replace
@output.jobs
@output.no_cache
@output.as_json
def command(manifest: Path, destination: Path | None, replace: bool, jobs: int, no_cache: bool, as_json: bool) -> None:
    """Build the bundle that MANIFEST describes, and print its digest.

    Every program is lowered for every platform and compiled for every target. A directory that already holds this
    very bundle is left as it is. A build that fails, or is interrupted, leaves nothing behind but what it has added to
    the build cache, where the next one goes on.
    """
    plan = plans.resolve(plans.read(manifest))
    where = destination or Path("dist", plan.name)
    if replace:
        _keep(where, manifest, plan)
    for line in plan.dropped:
        click.echo(f"remark: {line}", err=True)
    kept = None if no_cache else cache.Cache(cache.location())
    with Display() as display:
        digest = build.build(plan, build.Options(where, replace, jobs, kept), display)
    if as_json:
        output.document({"digest": digest, "path": str(where)})
    else:
        click.echo(f"bundle {where}")
        click.echo(digest)


def _keep(where: Path, manifest: Path, plan: Plan) -> None:
    """Raises InputError where replacing a directory would remove what is built from, or where we are."""
    place = where.resolve()
    model = plan.model
    for kept in (Path.cwd(), manifest, model.checkpoint, model.tokenizer, *map(tuning.path, plan.targets)):
        if kept is not None and kept.resolve().is_relative_to(place):
            raise InputError(f"{where}: holds {str(kept)!r}, which --replace would remove; name another directory")
