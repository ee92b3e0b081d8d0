"""Figures and the plot that are made of what runs printed."""

import statistics
import xml.etree.ElementTree as ET
from typing import Any

import pytest

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


def drawn(rows: list[tuple[str, dict[str, Figure]]], bandwidth: float | None = 50e9) -> ET.Element:
    return ET.fromstring(plot.draw_plot(rows, bandwidth, "a title", "a caption"))


def bars(root: ET.Element, color: str) -> list[float]:
    """Widths of the bars of a color; its square in the legend is as wide as high."""
    found = (e.attrib for e in root.iter("{http://www.w3.org/2000/svg}rect") if e.get("fill") == color)
    return [float(each["width"]) for each in found if each["width"] != each["height"]]


def test_the_parts_of_a_bar_are_as_long_as_what_they_show() -> None:
    root = drawn([("one", figures.figures_of([document(0.6)])), ("two", figures.figures_of([document(1.0)]))])
    first, other = bars(root, plot._PARTS["first_token"][1])
    (opening, _) = bars(root, plot._PARTS["open"][1])

    assert first / opening == pytest.approx(0.4 / 0.1, rel=0.01)
    assert other / opening == pytest.approx(0.8 / 0.1, rel=0.01)


@pytest.mark.parametrize("value", [1e-4, 0.003, 0.7, 12.5, 4000])
def test_axes_have_a_few_round_ticks_whatever_the_size(value: float) -> None:
    ticks = plot._Scale(value).ticks

    assert 4 <= len(ticks) <= 8
    assert ticks[-1] <= value * 1.001


def test_names_are_text_whatever_they_are_spelled_with() -> None:
    root = drawn([("<b> & 'c'", figures.figures_of([document(1)]))])

    assert "<b> & 'c'" in {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}


def test_a_peer_without_decode_is_drawn_by_its_start_alone() -> None:
    root = drawn(
        [("one", figures.figures_of([document(1)])), ("two", figures.figures_of([document(1, decode=[])]))], None
    )

    assert len(bars(root, plot._PARTS["first_token"][1])) == 2
    assert len(bars(root, plot._DECODE)) == 1


def test_a_long_name_is_cut_to_the_room_that_there_is() -> None:
    root = drawn([("a-name-that-would-leave-the-page", figures.figures_of([document(1)]))])

    assert "a-name-that-would-lea…" in {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
