"""`aot bench`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from aot.cli import output, progress
from aot.errors import InputError
from aot.runtime.verification import Verify

if TYPE_CHECKING:
    from rich.table import Table


@click.command(
    "bench",
    epilog=output.examples_epilog(
        "aot bench dist/tiny",
        "aot bench dist/tiny --rounds 10 --plot tiny.svg",
        "aot bench dist/tiny --prompt-tokens 20 --new-tokens 40 --json",
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Fresh processes to measure.")
@click.option(
    "--prompt-tokens", type=click.IntRange(min=1), help="Tokens of the prompt; by default the most that a row takes."
)
@click.option("--new-tokens", type=click.IntRange(min=1), help="Tokens to generate; by default as the bundle says.")
@click.option(
    "--verify",
    type=click.Choice(get_args(Verify)),
    default="once",
    show_default=True,
    help="When the measured processes check weights against their digests.",
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the medians into this SVG file.")
@output.as_json
def command(
    bundle: Path, rounds: int, prompt_tokens: int | None, new_tokens: int | None, verify: Verify, plot: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Measure BUNDLE on this machine, a request of one prompt at a time, in fresh processes.

    From the start of a process to the first token and the sixteenth; then, steady, a prefill and the steps of decode,
    against the read bandwidth of memory, measured between them. What is shown is the median of all rounds, and the
    lowest and highest.
    """
    from aot.bench import measuring

    if plot is not None:
        _check_plot(plot)
    options = measuring.BenchOptions(rounds, prompt_tokens, new_tokens, verify)
    with progress.show_waiting("") as say:
        found = measuring.measure_bundle(bundle, options, lambda number, name: say(f"round {number + 1}: {name}"))
    if plot is not None:
        plot.write_text(_drawn(bundle, found), encoding="utf-8")
    if as_json:
        output.print_document(found)
    else:
        _print(bundle, found)


def _check_plot(plot: Path) -> None:
    """Raises InputError where the file could not be written in the end, ImportError where nothing could draw it."""
    import matplotlib  # noqa: F401

    if plot.suffix.lower() != ".svg":
        raise InputError(f"--plot {plot}: must end in .svg, got {plot.suffix!r}; a browser shows and converts SVG")
    if not plot.parent.is_dir():
        raise InputError(f"--plot {plot}: there is no directory {plot.parent}; make it first")
    if plot.is_dir() or not os.access(plot if plot.exists() else plot.parent, os.W_OK):
        raise InputError(f"--plot {plot}: cannot be written; name another file")


def _print(bundle: Path, found: Mapping[str, Any]) -> None:
    console = output.console()
    click.echo(f"bundle {bundle}: {_request(found)}")
    click.echo(_place(found))
    table = output.empty_table("", "median", "low", "high", right=("median", "low", "high"))
    for name, figure in found["figures"].items():
        table.add_row(_NAMES[name], *(_shown(figure[part], figure["unit"]) for part in ("median", "low", "high")))
    if found["bandwidth"]:
        table.add_row("read bandwidth of memory", _shown(found["bandwidth"] / 1e9, "GB/s"))
    console.print(table)
    console.print(_executables(found["rounds"]))
    for number, document in enumerate(found["rounds"], start=1):
        if "error" in document:
            click.echo(f"round {number} failed: {document['error']}", err=True)


def _executables(documents: list[Mapping[str, Any]]) -> "Table":
    """A row for each executable: medians of loading it, of its first call and of its second."""
    from statistics import median

    runs = [document["executables"] for document in documents if "error" not in document]
    columns = ("calls", "load", "first call", "second call")
    table = output.empty_table("executable", *columns, right=columns)
    for same in zip(*runs, strict=True):
        times = (f"{1000 * median(each[part] for each in same):.2f} ms" for part in ("load", "first", "second"))
        table.add_row(f"{same[0]['phase']}: {same[0]['name']}", str(same[0]["calls"]), *times)
    return table


def _drawn(bundle: Path, found: Mapping[str, Any]) -> str:
    from aot.bench import plot
    from aot.bench.figures import Figure

    figures = {name: Figure(**figure) for name, figure in found["figures"].items()}
    name = bundle.resolve().name
    return plot.draw_plot([(name, figures)], found["bandwidth"], f"aot bench {name}", _request(found), _place(found))


def _request(found: Mapping[str, Any]) -> str:
    request, held = found["request"], found["bundle"]
    tokens = f"{request['prompt_tokens']} prompt tokens, {request['new_tokens']} new ones"
    return f"{tokens}, {held['dtype']}, {output.spelled_size(held['weight_bytes'])} of weights a token"


def _place(found: Mapping[str, Any]) -> str:
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{machine['cpu']}, {output.counted(machine['cores'], 'cores')}; {versions}"


def _shown(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"-{output.spelled_size(int(-value))}" if value < 0 else output.spelled_size(int(value))
    digits = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:.3f} s" if unit == "s" else f"{value:,.{digits}f} {unit}".rstrip()


_NAMES = {
    "import": "start to imported",
    "open": "start to open",
    "first_token": "start to the first token",
    "sixteen": "start to 16 tokens",
    "prefill": "prefill",
    "decode": "decode",
    "decode_bandwidth": "decode, weights streamed",
    "decode_share": "decode, of the read bandwidth",
    "dispatch_step": "dispatch of a chunk of steps",
    "dispatch_call": "dispatch of Model.call",
    "dispatch_request": "beginning a request",
    "load": "executables loaded",
    "first_over_second": "first calls over second ones",
    "peak_memory": "peak memory",
    "shared_memory": "memory shared by two processes",
    "second_memory": "memory that the second adds",
    "second_share": "the same, of the weights",
    "compilations": "compilations",
}
