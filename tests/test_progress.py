"""What a build says on stderr while it goes on."""

import time

import pytest
from rich.progress import Progress

from aot.cli import progress
from aot.cli.progress import Display, Patience, Remaining


def remaining(left: float | None) -> str:
    bar = Progress()
    bar.add_task("compile", total=2, end=None if left is None else time.monotonic() + left)
    return Remaining().render(bar.tasks[0]).plain


@pytest.mark.parametrize(("left", "shown"), [(None, ""), (65.2, "1:05 left"), (0.2, "0:00 left"), (-9, "0:00 left")])
def test_the_remaining_time_counts_down_from_what_was_foretold(left: float | None, shown: str) -> None:
    assert remaining(left) == shown


def test_where_no_terminal_is_a_step_is_a_line_that_says_what_came_from_the_cache(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Display() as display:
        display.step("lower", None)
        display.advance("prefill")
        display.step("compile", 12, 9)
        display.advance("block", 4.5)
        display.step("compile", 3)
        display.step("golden", 14, 2)
    out, err = capfd.readouterr()

    assert out == ""
    assert err.splitlines() == [
        "lower",
        "compile 12 programs, 9 from the cache",
        "compile 3 programs",
        "golden 14 entries, 2 from the cache",
    ]


def test_where_no_terminal_is_counting_says_how_far_it_is_once_it_takes_a_while(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Display() as display:
        Patience(display, 3)("", 2.0, 3)
        monkeypatch.setattr(progress, "_PATIENCE", -1.0)
        slow = Patience(display, 3)
        slow("", 20.0, 3)
        slow("", 10.0, 3)
    out, err = capfd.readouterr()

    assert (out, err.splitlines()) == ("", ["count 1 of 3 combos, 20 s left", "count 2 of 3 combos, 10 s left"])
