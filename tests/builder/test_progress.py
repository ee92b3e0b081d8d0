"""What a build says on stderr while it goes on."""

import contextlib
import io
import re
import time
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.progress import Progress

from aot.cli import progress as cli_progress
from aot.cli.progress import Display, Remaining


def remaining(left: float | None) -> str:
    made = Progress()
    made.add_task("compile", total=2, end=None if left is None else time.monotonic() + left)
    return Remaining().render(made.tasks[0]).plain


@pytest.mark.parametrize(("left", "shown"), [(None, ""), (65.2, "1:05 left"), (0.2, "0:00 left"), (-9, "0:00 left")])
def test_the_remaining_time_counts_down_from_what_was_foretold(left: float | None, shown: str) -> None:
    assert remaining(left) == shown


def test_where_no_terminal_is_a_step_is_a_line_that_says_what_came_from_the_cache(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Display() as display:
        with display.step("lower", None) as progress:
            progress("prefill")
        with display.step("compile", 12, 9) as progress:
            progress("block", 4.5)
        with display.step("compile", 3), display.step("golden", 14, 2):
            pass
    out, err = capfd.readouterr()

    assert out == ""
    assert err.splitlines() == [
        "lower",
        "compile 12 programs, 9 from the cache",
        "compile 3 programs",
        "golden 14 entries, 2 from the cache",
    ]


def test_where_no_terminal_is_a_long_step_is_told_of_again_and_again(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_progress, "EVERY", 0.05)
    with Display() as display, display.step("weights", None), display.step("compile", 12) as progress:
        progress("block")
        time.sleep(0.3)
    with cli_progress.show_waiting("hashing dist/tiny"):
        time.sleep(0.3)
    begun, first, *more = capfd.readouterr().err.splitlines()

    assert [begun, first] == ["weights", "compile 12 programs"]
    assert {*more} == {"still: weights after 0:00; compile 1 of 12 after 0:00", "still: hashing dist/tiny"}


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"])
def test_a_variable_makes_no_terminal_of_a_log(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with Display() as display, display.step("compile", 1) as progress:
        progress("block")

    assert capfd.readouterr().err == "compile 1 programs\n"


def drawn(monkeypatch: pytest.MonkeyPatch, work: Callable[[Display], None]) -> str:
    """What a terminal shows of some work in the end."""
    screen = io.StringIO()
    monkeypatch.setattr(cli_progress, "is_watched", lambda: True)
    monkeypatch.setattr(cli_progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100))
    with contextlib.suppress(KeyboardInterrupt), Display() as display:
        work(display)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).split("\n")
    return "\n".join(line.rpartition("\r")[2].rstrip() for line in lines)


def test_a_bar_that_was_interrupted_stays_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(display: Display) -> None:
        with display.step("lower", None), display.step("compile", 12) as progress:
            progress("block")
            raise KeyboardInterrupt

    shown = drawn(monkeypatch, work)

    assert " 1/12 " in shown
    assert "12/12" not in shown
    assert shown.count("not finished") == 2


def test_a_step_without_parts_counts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(display: Display) -> None:
        with display.step("publish", None):
            pass

    shown = drawn(monkeypatch, work)

    assert "publish" in shown
    assert "/" not in shown
