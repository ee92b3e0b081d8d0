"""`aot refresh`."""

import datetime
from pathlib import Path

import click

from aot import plan as plans
from aot.audit import refresh
from aot.builder.reuse import cache
from aot.builder.stages import build, releases
from aot.cli import output
from aot.cli.progress import Display


@click.command(
    "refresh",
    epilog=output.examples_epilog(
        "aot refresh dist/tiny -o dist/new", "aot refresh dist/tiny --manifest manifests/tiny.yaml -o dist/new"
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--manifest",
    type=click.Path(path_type=Path),
    help="What the bundle was built from; needed where the installed jax refuses its programs.",
)
@click.option("-o", "--output", "destination", required=True, type=click.Path(path_type=Path), help="The new bundle.")
@output.replace_options
@output.jobs_option
@output.no_cache
@output.jax_released
@output.as_json
def command(
    bundle: Path, manifest: Path | None, destination: Path, replace: bool, force: bool, jobs: int, no_cache: bool,
    jax_released: datetime.date | None, as_json: bool,
) -> None:  # fmt: skip
    """Renew BUNDLE with the installed jax: export its programs anew, compile its executables anew.

    Weights and tokenizer stay as they are. The new bundle records the digest of the old one. Refused where the
    programs of that jax are readable no day longer than those of the bundle.
    """
    plan = None if manifest is None else plans.resolve(plans.read_manifest(manifest))
    release = releases.installed(jax_released)
    kept = None if no_cache else cache.own()
    options = build.Options(destination, replace, force, jobs, kept)
    options.place().keep(manifest, None if destination.resolve() == bundle.resolve() else bundle)
    with Display() as display:
        made = refresh.refresh(bundle, plan, release, options, display)
    if as_json:
        document = {"digest": made.digest, "path": str(destination), "programs_from": made.source}
        golden = {"entries": made.compared, "largest_difference": made.largest_difference}
        output.print_document({**document, "valid_until": made.valid_until, "golden": golden})
        return
    click.echo(f"programs from the {made.source}, valid until {made.valid_until}")
    if made.largest_difference is None:
        click.echo("no golden outputs to compare")
    else:
        click.echo(f"golden outputs of {made.compared} entries: largest difference {made.largest_difference:.2g}")
    click.echo(f"bundle {destination}")
    click.echo(made.digest)
