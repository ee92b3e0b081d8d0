"""`aot diff`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from aot.audit import diff, sides
from aot.audit.diff import Cause
from aot.bundle import store
from aot.cli import output
from aot.errors import DifferenceError

_LONGEST = 400  # characters of a value that are shown


@click.command("diff", epilog=output.examples("aot diff dist/tiny other/tiny"))
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@output.as_json
def command(a: Path, b: Path, as_json: bool) -> int:
    """Say which factors made the bundles A and B differ, in the order in which causes act, not what follows from them.

    Exit code 6 when they differ.
    """
    found = diff.causes(sides.of_bundle(store.open(a)), sides.of_bundle(store.open(b)))
    return verdict(found, as_json)


def verdict(found: Sequence[Cause], as_json: bool) -> int:
    """Prints the causes and gives the exit code."""
    if as_json:
        output.document({"same": not found, "causes": [vars(cause) for cause in found]})
    else:
        for line in [line for cause in found for line in _lines(cause)] or ["same"]:
            click.echo(line)
    return DifferenceError.exit_code if found else 0


def _lines(cause: Cause) -> list[str]:
    first = f"{cause.factor}: {cause.detail}" if cause.detail else cause.factor
    return [first, f"  a: {shown(cause.a, _LONGEST)}", f"  b: {shown(cause.b, _LONGEST)}"]


def shown(value: Any, longest: int) -> str:
    """A value on one line: text as it is, the rest as JSON, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= longest else text[: longest - 1] + "…"
