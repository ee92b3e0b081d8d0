"""`aot explain`."""

import datetime
from pathlib import Path

import click

from aot.audit import diff, explain, factors, sides, words
from aot.audit.explain import Subject
from aot.builder.stages import releases
from aot.bundle import store
from aot.cli import output, progress
from aot.cli.commands.diff import print_verdict
from aot.cli.progress import Display

_LONGEST = 100  # characters of a value that are shown


@click.command(
    "explain",
    epilog=output.examples_epilog(
        "aot explain dist/tiny 66f0943a278c", "aot explain dist/tiny --against manifests/tiny.yaml"
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("name", metavar="[KEY]", required=False)
@click.option("--against", metavar="MANIFEST", type=click.Path(path_type=Path), help="What a rebuild would change.")
@output.jax_released
@output.as_json
def command(
    bundle: Path, name: str | None, against: Path | None, jax_released: datetime.date | None, as_json: bool
) -> int:  # fmt: skip
    """List the factors behind BUNDLE, or behind one KEY, program or executable of it, named by its first digits.

    With --against: say which factors would differ if the bundle were built from MANIFEST with what is installed now,
    and why. Weights are read and programs lowered, nothing is compiled. Exit code 6 when a factor would.
    """
    if against and name:
        raise click.UsageError("give a KEY or --against, not both")
    if jax_released and not against:
        raise click.UsageError("--jax-released is of a rebuild: give --against, too")
    if against:
        return _against(bundle, against, jax_released, as_json)
    opened = store.open(bundle)
    subject = explain.subject(opened.index, name) if name else explain.bundle(opened.index, opened.digest)
    if as_json:
        output.print_document({"factors": subject.rows()})
    else:
        _print(subject)
    return 0


def _against(path: Path, manifest: Path, jax_released: datetime.date | None, as_json: bool) -> int:
    from aot import plan as plans

    bundle = store.open(path)
    plan = plans.resolve(plans.read_manifest(manifest))
    release = releases.installed(jax_released)
    with progress.show_waiting(f"hashing {path}"):
        store.verify(path)
    with Display() as display, sides.of_plan(plan, release, display) as rebuilt:
        found = diff.causes(sides.of_bundle(bundle), rebuilt)
    return print_verdict(found, as_json)


def _print(subject: Subject) -> None:
    console = output.console()
    console.print(f"{subject.kind} {subject.name}", soft_wrap=True)
    console.print()
    table = output.empty_table("factor", "enters", "value")
    for row in subject.rows():
        table.add_row(row["name"], ", ".join(factors.named(row["name"]).enters), words.shorten(row["value"], _LONGEST))
    console.print(table)
    if subject.kind in ("bundle", "key"):
        _print_digests(subject)


def _print_digests(subject: Subject) -> None:
    console = output.console()
    console.print()
    table = output.empty_table("program", "name", "for", "digest")
    for program in subject.index.programs:
        table.add_row(program.digest[7:19], program.name, program.platform, program.digest)
        for executable in program.executables:
            table.add_row("", "", output.spelled_target(executable.target), executable.digest)
    console.print(table)
