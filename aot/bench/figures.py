"""Medians and spreads of what the runs of a contestant gave."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RunDocument = Mapping[str, Any]
"""What one process of a contestant measured."""


@dataclass(frozen=True)
class Figure:
    """A median over runs, the lowest and the highest."""

    median: float
    low: float
    high: float
    unit: str


def figures_of(documents: Sequence[RunDocument]) -> dict[str, Figure]:
    """Figures by name of documents without errors; what none of them has is left out.

    Beside what `process` says, a document may have `bandwidth`, the machine's in bytes a second.
    """
    made = {name: _figure(documents, value, unit) for name, (value, unit) in _VALUES.items()}
    return {name: figure for name, figure in made.items() if figure is not None}


def _figure(documents: Sequence[RunDocument], value: Callable[[RunDocument], float | None], unit: str) -> Figure | None:
    found = [given for document in documents if (given := _given(document, value)) is not None]
    return Figure(statistics.median(found), min(found), max(found), unit) if found else None


def _given(document: RunDocument, value: Callable[[RunDocument], float | None]) -> float | None:
    """None where a document lacks what it takes: peers give less than a bundle does, and one token has no decode."""
    try:
        return value(document)
    except (KeyError, statistics.StatisticsError):
        return None


def _streamed(document: RunDocument) -> float:
    """Bytes of weights a second in decode."""
    return document["weight_bytes"] / statistics.median(document["decode"])


def _ratio(document: RunDocument) -> float:
    """First calls over second ones, each executable of prefill and decode once."""
    found = document["executables"]
    return sum(each["first"] for each in found) / sum(each["second"] for each in found)


_VALUES: dict[str, tuple[Callable[[RunDocument], float | None], str]] = {
    "import": (lambda d: d["import"], "s"),
    "open": (lambda d: d["open"], "s"),
    "first_token": (lambda d: d["first_token"], "s"),
    "sixteen": (lambda d: d["sixteen"], "s"),
    "prefill": (lambda d: statistics.median(d["prefill"]), "s"),
    "decode": (lambda d: 1 / statistics.median(d["decode"]), "tokens/s"),
    "decode_bandwidth": (lambda d: _streamed(d) / 1e9, "GB/s"),
    "decode_share": (lambda d: 100 * _streamed(d) / d["bandwidth"], "%"),
    "dispatch_step": (lambda d: d["dispatch"]["step"] * 1e6, "µs"),
    "dispatch_call": (lambda d: d["dispatch"]["call"] * 1e6, "µs"),
    "dispatch_request": (lambda d: d["dispatch"]["request"] * 1e6, "µs"),
    "load": (lambda d: sum(each["load"] for each in d["executables"]), "s"),
    "first_over_second": (_ratio, "×"),
    "peak_memory": (lambda d: d["peak_memory"], "bytes"),
    "shared_memory": (lambda d: d["memory"]["beside"]["shared"], "bytes"),
    "second_memory": (lambda d: d["memory"]["added"], "bytes"),
    "second_share": (lambda d: 100 * d["memory"]["added"] / d["weight_bytes"], "%"),
    "compilations": (lambda d: d["compilations"], ""),
}
