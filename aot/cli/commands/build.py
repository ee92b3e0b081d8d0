"""`aot build`."""

import datetime
import time
from collections.abc import Iterator
from pathlib import Path

import click

from aot import plan as plans
from aot.builder.compiling import tuning
from aot.builder.reuse import cache
from aot.builder.stages import build, releases, tokenizer
from aot.bundle import loss, store
from aot.bundle.loss import Loss
from aot.bundle.store import Bundle
from aot.cli import output
from aot.cli.progress import Display
from aot.plan import Plan


@click.command(
    "build",
    epilog=output.examples_epilog(
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
@output.replace_options
@output.jobs_option
@output.no_cache
@output.jax_released
@click.option("--allow-expired", is_flag=True, help="Build although the programs are out of date already.")
@output.as_json
def command(
    manifest: Path, destination: Path | None, replace: bool, force: bool, jobs: int, no_cache: bool,
    jax_released: datetime.date | None, allow_expired: bool, as_json: bool,
) -> None:  # fmt: skip
    """Build the bundle that MANIFEST describes, and print until when its programs are readable, what quantization costs
    its model, and its digest.

    Every program is lowered for every platform and compiled for every target. A directory that already holds this
    very bundle is left as it is; another one there is refused as soon as it is seen to be another. A build that fails,
    or is interrupted, leaves nothing behind but what it has added to the build cache, where the next one goes on.
    """
    begin = time.perf_counter()
    given = plans.read_manifest(manifest)
    plan = plans.resolve(given)
    release = releases.installed(jax_released)
    if not allow_expired:
        releases.check_in_time(release, ", or build with --allow-expired")
    where = destination or Path("dist", plan.name)
    kept = None if no_cache else cache.own()
    options = build.Options(where, replace, force, jobs, kept)
    options.place().keep(manifest, plan.model.checkpoint, plan.model.tokenizer, *map(tuning.path, plan.targets))
    planned = (*plan.dropped, *tokenizer.tokenizer_remarks(plan), *plans.endings(given, plan), *build.fullness(plan))
    remarks = (*planned, *releases.expiry_remarks(release))
    for line in remarks:
        click.echo(f"remark: {line}", err=True)
    with Display() as display:
        digest = build.build(plan, release, options, display)
    made = store.open(where)
    cost = loss.read_loss(made)
    costly = tuple(_costly(plan, cost))
    for line in costly:
        click.echo(f"remark: {line}", err=True)
    if as_json:
        said = {"valid_until": release.valid_until, "remarks": (*remarks, *costly)}
        until = {**said, "seconds": time.perf_counter() - begin}
        measured = {} if cost is None else {"loss": vars(cost)}
        output.print_document({"digest": digest, "path": str(where), **until, **_counted(made, display), **measured})
    else:
        click.echo(f"bundle {where}")
        if cost is not None:
            click.echo(output.loss_line(cost))
        click.echo(f"valid until {release.valid_until}")
        click.echo(digest)


def _counted(bundle: Bundle, display: Display) -> dict[str, int]:
    """What was built, and how much of it came from the cache."""
    compiles, cached = display.counts["compile"]
    index, layers = bundle.index, bundle.manifest.layers
    made = {"combos": len(index.combos), "programs": len(index.programs), "compiles": compiles, "cached": cached}
    return {**made, "bytes": sum(layer.size for layer in layers)}


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
