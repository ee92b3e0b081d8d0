"""Figures and the plot that are made of what runs printed."""

import statistics
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from matplotlib import colors

from aot.bench import figures, plot
from aot.bench.figures import Figure


def document(first_token: float, **more: Any) -> dict[str, Any]:
    marks = {"import": 0.1, "open": 0.2, "first_token": first_token, "sixteen": first_token + 0.5}
    return {**marks, "prefill": [0.3, 0.1, 0.2], "decode": [0.04, 0.02], "weight_bytes": 3 * 10**9, **more}


def test_a_figure_is_the_median_of_the_runs_with_the_lowest_and_the_highest() -> None:
    found = figures.figures_of([document(value) for value in (0.9, 0.3, 0.5)])

    assert found["first_token"] == Figure(0.5, 0.3, 0.9, "s")


def test_prefill_and_decode_are_medians_within_a_run_first() -> None:
    found = figures.figures_of([document(1)])

    assert found["prefill"].median == statistics.median([0.3, 0.1, 0.2])
    assert found["decode"] == Figure(1 / 0.03, 1 / 0.03, 1 / 0.03, "tokens/s")


def test_decode_streams_all_weights_for_each_token() -> None:
    found = figures.figures_of([document(1, bandwidth=200e9)])

    assert found["decode_bandwidth"].median == pytest.approx(100)
    assert found["decode_share"].median == pytest.approx(50)


@pytest.mark.parametrize(
    ("lacking", "absent"),
    [
        ({"decode": []}, {"decode", "decode_bandwidth", "decode_share"}),
        ({"sixteen": None}, {"sixteen"}),
        ({}, {"dispatch_step", "load", "second_memory", "peak_memory", "compilations"}),
    ],
)
def test_what_no_run_gave_is_left_out(lacking: dict[str, Any], absent: set[str]) -> None:
    found = figures.figures_of([document(1, bandwidth=1e9, **lacking)])

    assert not absent & found.keys()
    assert "first_token" in found


def drawn(rows: list[tuple[str, dict[str, Figure]]], bandwidth: float | None = 50e9) -> list[Any]:
    """The panels of a plot."""
    return list(plot.plotted(rows, bandwidth, "a title", "a caption").axes)


def bars(axes: Any, color: str) -> list[float]:
    """Widths of the bars of a color."""
    wanted = colors.to_rgba(color)
    return [patch.get_width() for patch in axes.patches if patch.get_facecolor() == wanted]


def test_the_parts_of_a_bar_are_as_long_as_what_they_show() -> None:
    starts, _ = drawn([("one", figures.figures_of([document(0.6)])), ("two", figures.figures_of([document(1.0)]))])

    assert bars(starts, plot._PARTS["first_token"][1]) == pytest.approx([0.4, 0.8])
    assert bars(starts, plot._PARTS["open"][1]) == pytest.approx([0.1, 0.1])
    assert bars(starts, plot._PARTS["sixteen"][1]) == pytest.approx([0.5, 0.5])


def test_decode_is_drawn_to_its_bandwidth_beside_the_machines() -> None:
    _, decodes = drawn([("one", figures.figures_of([document(1)]))], bandwidth=200e9)

    assert bars(decodes, plot._DECODE) == pytest.approx([100])
    assert [line.get_xdata()[0] for line in decodes.lines if line.get_color() == plot._LIMIT] == [200]


def test_the_document_is_svg_with_names_as_text_whatever_they_are_spelled_with_and_the_same_each_time() -> None:
    rows = [("<b> & $x$ 'c'", figures.figures_of([document(1)]))]
    one, other = (plot.draw_plot(rows, 50e9, "a title", "a caption") for _ in range(2))
    root = ET.fromstring(one)

    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    said = {"".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"<b> & $x$ 'c'", "a title", "first 1 s, 16 tokens 1.5 s"} <= said
    assert one == other


def test_a_peer_without_decode_is_drawn_by_its_start_alone() -> None:
    starts, decodes = drawn(
        [("one", figures.figures_of([document(1)])), ("two", figures.figures_of([document(1, decode=[])]))], None
    )

    assert len(bars(starts, plot._PARTS["first_token"][1])) == 2
    assert len(bars(decodes, plot._DECODE)) == 1
