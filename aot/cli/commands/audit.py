"""`aot audit`."""

import datetime
from pathlib import Path

import click

from aot.audit import audit
from aot.audit.refresh import Part
from aot.builder.stages import releases
from aot.cli import output
from aot.cli.commands import diff
from aot.cli.progress import Display
from aot.errors import DifferenceError


@click.command(
    "audit",
    epilog=output.examples_epilog(
        "aot audit dist/tiny --manifest manifests/tiny.yaml --rounds 3",
        "aot audit dist/tiny --manifest manifests/tiny.yaml --programs-only",
        "aot audit dist/new --manifest manifests/tiny.yaml --from dist/tiny",
        "aot audit dist/tiny --manifest manifests/tiny.yaml --cpu EPYC-Rome",
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--manifest", required=True, type=click.Path(path_type=Path), help="What the bundle was built from.")
@click.option(
    "--only", "combo_key", metavar="KEY", help="Compare the entries of this key alone, named by its first digits."
)
@click.option(
    "--target",
    "platform",
    type=click.Choice(["cpu", "cuda", "tpu"]),
    help="Compare executables of this platform alone.",
)
@click.option(
    "--from",
    "origin",
    metavar="OLD",
    type=click.Path(path_type=Path),
    help="For a refreshed bundle: the bundle that it was refreshed from.",
)
@click.option("--programs-only", is_flag=True, help="Compile nothing and leave weights alone; takes seconds.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How often to rebuild, each time elsewhere.",
)
@click.option("--cpu", metavar="NAME", help="Rebuild on this CPU, emulated by qemu-x86_64: EPYC-Rome, Haswell, …")
@output.jax_released
@output.as_json
def command(
    bundle: Path, manifest: Path, combo_key: str | None, platform: str | None, origin: Path | None, programs_only: bool,
    rounds: int, cpu: str | None, jax_released: datetime.date | None, as_json: bool,
) -> int:  # fmt: skip
    """Build BUNDLE again from its manifest and compare: programs, executables, weights, tokenizer, index.

    Each round is a fresh process in an environment of its own: other directories, hash seed, locale, time zone, clock,
    variables of jax and XLA, umask, order of files, workers, cores. No build cache is used. Exit code 6 on any
    difference.
    """
    if programs_only and platform is not None:
        raise click.UsageError("--target chooses among executables, --programs-only makes none: give one of the two")
    part = Part(combo_key, platform, not programs_only)
    release = releases.installed(jax_released)
    with Display() as display:
        found = audit.audit(bundle, manifest, release, audit.Options(part, rounds, origin, cpu), display)
    if as_json:
        output.print_document(found.plain())
    else:
        _print(found)
    return 0 if found.same else DifferenceError.exit_code


def _print(found: audit.Audit) -> None:
    table = output.empty_table("round", "entry", "phase", "kind", "verdict", "cause")
    for row in found.plain()["entries"]:
        table.add_row(
            str(row["round"]), (row["key"] or "")[:12], row["phase"] or "", row["kind"], row["verdict"], row["cause"]
        )
    output.console().print(table)
    for line in diff.cause_lines(found.causes):
        click.echo(line)
    differing = sum(not verdict.same for verdicts in found.verdicts for verdict in verdicts)
    verdicts = sum(map(len, found.verdicts))
    environments = output.counted(len(found.environments), "environments")
    entries = "1 entry" if found.entries == 1 else f"{found.entries} entries"
    click.echo(f"{environments}, {entries} in each, {verdicts} comparisons: {differing} differ")
