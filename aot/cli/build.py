"""`aot build`."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import click

from aot import plan as plans
from aot.builder import build, cache, releases, tuning
from aot.bundle import loss, store
from aot.bundle.loss import Loss
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
@output.jax_released
@click.option("--allow-expired", is_flag=True, help="Build although the programs are out of date already.")
@output.as_json
def command(
    manifest: Path, destination: Path | None, replace: bool, jobs: int, no_cache: bool,
    jax_released: datetime.date | None, allow_expired: bool, as_json: bool,
) -> None:  # fmt: skip
    """Build the bundle that MANIFEST describes, and print until when its programs are readable, what quantization costs
    its model, and its digest.

    Every program is lowered for every platform and compiled for every target. A directory that already holds this
    very bundle is left as it is. A build that fails, or is interrupted, leaves nothing behind but what it has added to
    the build cache, where the next one goes on.
    """
    plan = plans.resolve(plans.read(manifest))
    release = releases.installed(jax_released)
    if not allow_expired:
        releases.check_in_time(release, ", or build with --allow-expired")
    where = destination or Path("dist", plan.name)
    if replace:
        _keep(where, manifest, plan)
    for line in (*plan.dropped, *releases.remarks(release)):
        click.echo(f"remark: {line}", err=True)
    kept = None if no_cache else cache.Cache(cache.location())
    with Display() as display:
        digest = build.build(plan, release, build.Options(where, replace, jobs, kept), display)
    cost = loss.read(store.open(where))
    for line in _costly(plan, cost):
        click.echo(f"remark: {line}", err=True)
    if as_json:
        document = {"digest": digest, "path": str(where), "valid_until": release.valid_until}
        output.document(document if cost is None else {**document, "loss": vars(cost)})
    else:
        click.echo(f"bundle {where}")
        if cost is not None:
            click.echo(output.loss(cost))
        click.echo(f"valid until {release.valid_until}")
        click.echo(digest)


def _costly(plan: Plan, cost: Loss | None) -> Iterator[str]:
    """A line where quantization costs the model more than it should."""
    kind, dtype = plan.model.quantization, plan.model.dtype
    if kind is None:
        return
    if cost is None:
        yield f"quantization: {kind} or {dtype} gives values that are not finite, so what it costs is not known"
    elif cost.nats > loss.LARGE:
        yield (
            f"quantization: {kind} costs {cost.nats:.2g} nats a token, more than {loss.LARGE}: answers will differ "
            f"from those of {dtype}; leave it out, or compare both on your own text"
        )


def _keep(where: Path, manifest: Path, plan: Plan) -> None:
    """Raises InputError where replacing a directory would remove what is built from, or where we are."""
    place = where.resolve()
    model = plan.model
    for kept in (Path.cwd(), manifest, model.checkpoint, model.tokenizer, *map(tuning.path, plan.targets)):
        if kept is not None and kept.resolve().is_relative_to(place):
            raise InputError(f"{where}: holds {str(kept)!r}, which --replace would remove; name another directory")
