"""The results of an interleaved run as tables for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from aot.bench import figures
from aot.bench.figures import Figure
from aot.cli import output

Documents = Sequence[Mapping[str, Any]]

REFERENCE = "transformers eager"
"""Whose tokens are held against the others'."""

_TIMED = {"first_token": "first token s", "sixteen": "16 tokens s", "prefill": "prefill s", "decode": "decode tok/s"}
_MORE = ("GB/s", "% of read", "peak GiB", "same tokens")


def show(found: Mapping[str, Documents], failed: Mapping[str, str], bandwidth: float | None, baseline: str) -> None:
    """Medians with lowest and highest, how many times the baseline's they are, versions, and what failed and why."""
    console = output.console()
    table = output.empty_table("", *_TIMED.values(), *_MORE, right=_MORE)
    known = {} if bandwidth is None else {"bandwidth": bandwidth}
    results = {name: figures.figures_of([{**each, **known} for each in _good(found[name])]) for name in found}
    for name, result in results.items():
        if result:
            timed = [_against(result, results.get(baseline, {}), each) for each in _TIMED]
            table.add_row(name, *timed, *_more(result), same(found, name))
    console.print(table)
    for name, documents in found.items():
        if good := _good(documents):
            console.print(f"{name}: {', '.join(f'{key} {value}' for key, value in good[0]['versions'].items())}")
    for name, reason in {**failed, **_errors(found)}.items():
        console.print(f"{name} failed: {reason}", style="red", markup=False)


def same(found: Mapping[str, Documents], name: str) -> str:
    """How many of its first tokens are those of REFERENCE, in all rounds."""
    ours, theirs = ([each["tokens"] for each in _good(found.get(which, ()))] for which in (name, REFERENCE))
    return f"{min(_common(mine, theirs[0]) for mine in ours)} of {len(theirs[0])}" if ours and theirs else "?"


def _common(mine: Sequence[int], theirs: Sequence[int]) -> int:
    pairs = enumerate(zip(mine, theirs, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(mine), len(theirs)))


def _good(documents: Documents) -> list[Mapping[str, Any]]:
    return [document for document in documents if "error" not in document]


def _errors(found: Mapping[str, Documents]) -> dict[str, str]:
    """The last error of each contestant that had one."""
    return {name: each["error"] for name, documents in found.items() for each in documents if "error" in each}


def _against(result: Mapping[str, Figure], baseline: Mapping[str, Figure], name: str) -> str:
    """A median with its spread, and how many times the baseline's it is."""
    figure = result[name]
    digits = 1 if name == "decode" else 2
    shown = f"{figure.median:.{digits}f} ({figure.low:.{digits}f}–{figure.high:.{digits}f})"
    return f"{shown} {figure.median / baseline[name].median:.2f}×" if name in baseline else shown


def _more(result: Mapping[str, Figure]) -> list[str]:
    share = result.get("decode_share")
    peak = result["peak_memory"].median / 2**30
    return [f"{result['decode_bandwidth'].median:.1f}", f"{share.median:.0f}" if share else "?", f"{peak:.2f}"]
