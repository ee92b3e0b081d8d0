"""A plot of figures as an SVG document: the way to the first token, and decode against the bandwidth of memory."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from aot.bench.figures import Figure

Figures = Mapping[str, Figure]

_WIDTH, _LEFT, _RIGHT = 930, 165, 205
_BAR, _ROW, _TOP, _HEAD, _FOOT = 24, 40, 90, 70, 44
_TICKS, _LETTERS = 6, 22
_FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
_DARK, _GREY, _GRID = "#1f2933", "#616e7c", "#e4e7eb"
_PARTS = {
    "import": ("import", "#9fb3c8"),
    "open": ("open", "#486581"),
    "first_token": ("first token", "#e8833a"),
    "sixteen": ("16 tokens", "#f7d9bd"),
}
"""Figures of the way to the first tokens, in order, with what they are called and their colors."""
_DECODE, _LIMIT = "#2f855a", "#c53030"


@dataclass(frozen=True)
class _Scale:
    """Maps 0 … `end` to the width between the margins."""

    end: float

    def __call__(self, value: float) -> float:
        return _LEFT + value / self.end * (_WIDTH - _LEFT - _RIGHT)

    @property
    def ticks(self) -> list[float]:
        """Round values, about as many as there is room for."""
        rough = self.end / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
        return [step * number for number in range(int(self.end / step * 1.0001) + 1)]


def draw_plot(rows: Sequence[tuple[str, Figures]], bandwidth: float | None, title: str, *lines: str) -> str:
    """The document, a row for each name in both panels; `bandwidth` is the machine's in bytes a second.

    Two `lines` of small text go below the title.
    """
    panel = _HEAD + _ROW * len(rows) + _FOOT
    parts = [_text(24, 36, title, 19, weight=600)]
    parts += [_text(24, 58 + 18 * number, line, 12, _GREY) for number, line in enumerate(lines)]
    parts += _starts(rows, _TOP)
    parts += _decodes([row for row in rows if "decode_bandwidth" in row[1]], bandwidth, _TOP + panel)
    height = _TOP + 2 * panel
    opening = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}' width='{_WIDTH}' {_FONT}>"
    return "\n".join([opening, f"<rect width='{_WIDTH}' height='{height}' fill='white'/>", *parts, "</svg>"]) + "\n"


def _starts(rows: Sequence[tuple[str, Figures]], top: float) -> Iterator[str]:
    scale = _Scale(1.05 * max(_last(figures) for _, figures in rows))
    yield _text(24, top + 22, "Seconds from the start of the process", 14, weight=600)
    x = float(_LEFT)
    for name, color in _PARTS.values():
        yield f"<rect x='{x}' y='{top + 36}' width='11' height='11' rx='2' fill='{color}'/>"
        yield _text(x + 16, top + 46, name, 12, _GREY)
        x += 40 + 7 * len(name)
    yield from _axis(scale, top + _HEAD, len(rows), "s")
    for number, (name, figures) in enumerate(rows):
        y = _row(top, number)
        yield _name(y, name)
        yield from _start(scale, y, figures)


def _start(scale: _Scale, y: float, figures: Figures) -> Iterator[str]:
    before = 0.0
    for part, (_, color) in _PARTS.items():
        if part in figures:
            yield _bar(scale(before), y, scale(figures[part].median) - scale(before), color)
            before = figures[part].median
    first = figures["first_token"]
    yield _whisker(scale, y, first)
    sixteen = f", 16 tokens {figures['sixteen'].median:.3g} s" if "sixteen" in figures else ""
    yield _value(y, f"first {first.median:.3g} s{sixteen}")


def _decodes(rows: Sequence[tuple[str, Figures]], bandwidth: float | None, top: float) -> Iterator[str]:
    if not rows:
        return
    widest = max(figures["decode_bandwidth"].high for _, figures in rows)
    scale = _Scale(1.05 * max(widest, (bandwidth or 0) / 1e9))
    yield _text(24, top + 22, "Decode: gigabytes of weights a second", 14, weight=600)
    yield from _axis(scale, top + _HEAD, len(rows), "GB/s")
    for number, (name, figures) in enumerate(rows):
        y = _row(top, number)
        streamed, tokens = figures["decode_bandwidth"], figures["decode"]
        yield _name(y, name)
        yield _bar(_LEFT, y, scale(streamed.median) - _LEFT, _DECODE)
        yield _whisker(scale, y, streamed)
        yield _value(y, f"{streamed.median:.1f} GB/s, {tokens.median:,.{int(tokens.median < 100)}f} tokens/s")
    if bandwidth:
        x, bottom = scale(bandwidth / 1e9), top + _HEAD + _ROW * len(rows)
        yield f"<path d='M{x:.1f} {top + _HEAD - 8}V{bottom}' stroke='{_LIMIT}' stroke-width='2'/>"
        said = f"memory reads {bandwidth / 1e9:.1f} GB/s"
        yield _text(x, top + _HEAD - 14, said, 12, _LIMIT, anchor="middle")


def _last(figures: Figures) -> float:
    return figures["sixteen" if "sixteen" in figures else "first_token"].high


def _axis(scale: _Scale, top: float, rows: int, unit: str) -> Iterator[str]:
    bottom = top + _ROW * rows
    for tick in scale.ticks:
        yield f"<path d='M{scale(tick):.1f} {top}V{bottom}' stroke='{_GRID}'/>"
        yield _text(scale(tick), bottom + 18, f"{tick:g} {unit}", 11, _GREY, anchor="middle")


def _row(top: float, number: int) -> float:
    """Where the bar of a row begins."""
    return top + _HEAD + number * _ROW + (_ROW - _BAR) / 2


def _name(y: float, name: str) -> str:
    """A name as far as there is room for it."""
    return _text(_LEFT - 10, y + 16, name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…", 13, anchor="end")


def _value(y: float, said: str) -> str:
    return _text(_WIDTH - _RIGHT + 14, y + 16, said, 12)


def _bar(x: float, y: float, width: float, color: str) -> str:
    return f"<rect x='{x:.1f}' y='{y}' width='{max(0.0, width):.1f}' height='{_BAR}' fill='{color}'/>"


def _whisker(scale: _Scale, y: float, figure: Figure) -> str:
    """The spread of a figure, across its end."""
    low, high, middle = scale(figure.low), scale(figure.high), y + _BAR / 2
    ends = f"M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"
    return f"<path d='M{low:.1f} {middle}H{high:.1f}{ends}' stroke='{_DARK}' fill='none'/>"


def _text(
    x: float, y: float, said: str, size: int, color: str = _DARK, *, anchor: str = "start", weight: int = 400
) -> str:
    style = f"font-size='{size}' fill='{color}' text-anchor='{anchor}' font-weight='{weight}'"
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}>{escape(said)}</text>"
