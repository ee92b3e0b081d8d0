"""A plot of figures as an SVG document: the way to the first token, and decode against the bandwidth of memory."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from aot.bench.figures import Figure

Figures = Mapping[str, Figure]

_PARTS = {
    "import": ("import", "#9fb3c8"),
    "open": ("open", "#486581"),
    "first_token": ("first token", "#e8833a"),
    "sixteen": ("16 tokens", "#f7d9bd"),
}
"""Figures of the way to the first tokens, in order, with what they are called and their colors."""
_DECODE, _LIMIT, _GRID = "#2f855a", "#c53030", "#e4e7eb"
_STYLE = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": _GRID,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "aot",  # and equal figures give equal bytes
    "text.parse_math": False,
}


def draw_plot(rows: Sequence[tuple[str, Figures]], bandwidth: float | None, title: str, *lines: str) -> str:
    """The document, a row for each name in both panels; `bandwidth` is the machine's in bytes a second.

    `lines` of small text go below the title.
    """
    import matplotlib

    with matplotlib.rc_context(_STYLE), io.StringIO() as file:
        plotted(rows, bandwidth, title, *lines).savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()


def plotted(rows: Sequence[tuple[str, Figures]], bandwidth: float | None, title: str, *lines: str) -> Any:
    """The same as a figure of matplotlib's."""
    from matplotlib import figure

    streaming = [row for row in rows if "decode_bandwidth" in row[1]]
    heights = [1 + 0.4 * len(each) for each in (rows, streaming) if each]
    made = figure.Figure(figsize=(9.3, 1 + sum(heights)), layout="constrained")
    made.suptitle("\n".join([title, *lines]), fontsize=11, ha="left", x=0.01)
    panels = made.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    _draw_starts(panels[0], rows)
    if streaming:
        _draw_decodes(panels[1], streaming, bandwidth)
    return made


def _draw_starts(axes: Any, rows: Sequence[tuple[str, Figures]]) -> None:
    for number, (_, figures) in enumerate(rows):
        before = 0.0
        for part, (name, color) in _PARTS.items():
            if part in figures:
                end = figures[part].median
                axes.barh(number, end - before, left=before, height=0.6, color=color, label=name)
                before = end
        first = figures["first_token"]
        sixteen = f", 16 tokens {figures['sixteen'].median:.3g} s" if "sixteen" in figures else ""
        _draw_spread(axes, number, first)
        _say(axes, number, max(before, first.high), f"first {first.median:.3g} s{sixteen}")
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.figure.legend(named.values(), named.keys(), loc="outside upper right", ncols=4, frameon=False)
    _finish(axes, rows, "Seconds from the start of the process")


def _draw_decodes(axes: Any, rows: Sequence[tuple[str, Figures]], bandwidth: float | None) -> None:
    for number, (_, figures) in enumerate(rows):
        streamed, tokens = figures["decode_bandwidth"], figures["decode"]
        axes.barh(number, streamed.median, height=0.6, color=_DECODE)
        _draw_spread(axes, number, streamed)
        said = f"{streamed.median:.1f} GB/s, {tokens.median:,.{int(tokens.median < 100)}f} tokens/s"
        _say(axes, number, streamed.high, said)
    if bandwidth:
        axes.axvline(bandwidth / 1e9, color=_LIMIT)
        said = f"memory reads {bandwidth / 1e9:.1f} GB/s"
        axes.annotate(said, (bandwidth / 1e9, 1), xycoords=("data", "axes fraction"), color=_LIMIT, ha="center")
    _finish(axes, rows, "Decode: gigabytes of weights a second")


def _draw_spread(axes: Any, number: int, figure: Figure) -> None:
    below, above = figure.median - figure.low, figure.high - figure.median
    axes.errorbar(figure.median, number, xerr=[[below], [above]], color="#1f2933", capsize=3, linewidth=1)


def _say(axes: Any, number: int, x: float, said: str) -> None:
    axes.annotate(said, (x, number), xytext=(8, 0), textcoords="offset points", va="center")


def _finish(axes: Any, rows: Sequence[tuple[str, Figures]], title: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold", fontsize=10)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.3 * max(axes.dataLim.x1, axes.get_xlim()[1] / 1.05))
