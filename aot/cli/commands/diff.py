"""`aot diff`."""

from collections.abc import Sequence
from pathlib import Path

import click

from aot.audit import diff, sides, words
from aot.audit.comparisons import Cause
from aot.bundle import store
from aot.cli import output, progress
from aot.errors import DifferenceError

_LONGEST = 400  # characters of a value that are shown


@click.command("diff", epilog=output.examples_epilog("aot diff dist/tiny other/tiny"))
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--index-only", is_flag=True, help="Believe the digests in the indexes, and hash no bytes.")
@output.as_json
def command(a: Path, b: Path, index_only: bool, as_json: bool) -> int:
    """Say which factors made the bundles A and B differ, in the order in which causes act, not what follows from them.

    Every byte of both is hashed first, as by `aot verify`. Exit code 6 when they differ.
    """
    with progress.show_waiting(f"comparing {a} and {b}"):
        first, second = map(store.open if index_only else store.verify, (a, b))
        found = diff.causes(sides.of_bundle(first), sides.of_bundle(second))
    return print_verdict(found, as_json)


def print_verdict(found: Sequence[Cause], as_json: bool) -> int:
    """Prints the causes and gives the exit code."""
    if as_json:
        output.print_document({"same": not found, "causes": [vars(cause) for cause in found]})
    else:
        for line in cause_lines(found) or ["same"]:
            click.echo(line)
    return DifferenceError.exit_code if found else 0


def cause_lines(found: Sequence[Cause]) -> list[str]:
    """Causes for people: three lines each."""
    return [line for cause in found for line in _lines(cause)]


def _lines(cause: Cause) -> list[str]:
    a, b = words.parted(cause.a, cause.b, _LONGEST)
    return [": ".join(filter(None, (cause.factor, cause.detail))), f"  a: {a}", f"  b: {b}"]
