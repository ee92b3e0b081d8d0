"""What commands print: results to stdout, steps to stderr."""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

F = TypeVar("F", bound=Callable[..., Any])

_WIDE = 160


def as_json(command: F) -> F:
    """The option `--json`, as the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(command)


def document(value: Mapping[str, Any]) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False))


def console() -> Console:
    """Stdout, as wide as the terminal; wide enough for a key where it is none."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=_WIDE)


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def target(record: Mapping[str, Any]) -> str:
    """A target in words: `cpu avx2, 32 threads`."""
    (kind, options), *_ = record.items()
    isa, threads = options.get("isa"), options.get("threads")
    return f"{kind} {isa}, {threads} threads" if isa else f"{kind} {dict(options)}"
