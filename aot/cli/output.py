"""What commands print: results to stdout, steps to stderr."""

import codecs
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from aot import precompile

if TYPE_CHECKING:
    from aot.bundle.loss import Loss

F = TypeVar("F", bound=Callable[..., Any])

_WIDE = 1000
PLAIN: Mapping[str, Any] = {"highlight": False, "markup": False, "emoji": False}
"""Options of consoles that show texts as they are: names of files and models may look like rich's markup."""


def as_json(command: F) -> F:
    """The option `--json`, as the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(command)


def jobs_option(command: F) -> F:
    """The option `--jobs`, as the argument `jobs`."""
    number = click.IntRange(min=1)
    return click.option("--jobs", type=number, default=1, show_default=True, help="Programs to compile at a time.")(
        command
    )


def replace_options(command: F) -> F:
    """The options `--replace` and `--force`, as arguments of these names."""
    command = click.option("--force", is_flag=True, help="Replace whatever is at the new bundle's path.")(command)
    text = "Replace a bundle at the new bundle's path, by one rename; nothing else."
    return click.option("--replace", is_flag=True, help=text)(command)


def no_cache(command: F) -> F:
    """The option `--no-cache`, as the argument `no_cache`."""
    return click.option("--no-cache", is_flag=True, help="Neither read nor write the build cache.")(command)


def jax_released(command: F) -> F:
    """The option `--jax-released`, as the argument `jax_released`: a day, or None."""
    return click.option(
        "--jax-released",
        metavar="YYYY-MM-DD",
        type=click.DateTime(["%Y-%m-%d"]),
        callback=lambda _, __, given: given and given.date(),
        help="When the installed jax was released, where this aot does not know it.",
    )(command)


def examples_epilog(*lines: str) -> str:
    """The end of a command's help."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])  # \b keeps click from wrapping them


def print_document(value: Mapping[str, Any]) -> None:
    """One JSON document on stdout, whatever the encoding of that has no letters for; what is no number is null."""
    utf_8 = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    click.echo(json.dumps(_finite(value), ensure_ascii=not utf_8, allow_nan=False))


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_finite, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def console() -> Console:
    """Stdout, as wide as the terminal; wide enough for any table where it is none."""
    return Console(**PLAIN, width=None if sys.stdout.isatty() else _WIDE)


def empty_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def combos_table(first: str, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Table:
    """A row for each combo: its key, and the dimensions that any of them has."""
    rows = list(rows)
    shown = [name for name in precompile.FIELDS if any(dimensions.get(name) for _, dimensions in rows)]
    made = empty_table(first, *shown, right=tuple(shown))
    for combo_key, dimensions in rows:
        made.add_row(combo_key, *(str(dimensions[name] or "") for name in shown))
    return made


def counted(number: int, name: str) -> str:
    """A number of things: `1 program`, `2 programs`."""
    return f"{number} {name.removesuffix('s') if number == 1 else name}"


def loss_line(found: "Loss") -> str:
    """What quantization costs, in a line."""
    return (
        f"{found.quantization} against {found.dtype}: perplexity {found.change:+.2%}, {found.nats:.2g} nats a token, "
        f"{found.alike:.1%} of the likeliest tokens alike, over {counted(found.tokens, 'golden tokens')}"
    )


def spelled_size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def spelled_target(record: Mapping[str, Any]) -> str:
    """A target in words: `cpu avx2, 32 threads`."""
    ((kind, options),) = record.items()
    return f"{kind} {', '.join(_option(name, value) for name, value in options.items())}".strip()


def _option(name: str, value: Any) -> str:
    if name == "tuning":
        return "tuned"
    if name == "arithmetic":
        return f"{value} arithmetic"
    if isinstance(value, Mapping):
        return " ".join([name, *(f"{axis}={size}" for axis, size in value.items())])
    return f"{value} {name}" if isinstance(value, int) else str(value)
