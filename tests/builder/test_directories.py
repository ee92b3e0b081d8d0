"""Where a user's own files lie, and when what lies there is not believed."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from aot import directories
from aot.builder.compiling import canonical
from aot.builder.reuse import cache
from aot.errors import AotError

KINDS = {"cache": ".cache", "state": ".local/state"}


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of whom nothing tells a home."""

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", *(name for name in os.environ if name.startswith(("XDG_", "AOT_")))):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("own", "shared", "place"),
    [
        ("/a", "/b", "/a"),
        ("", "/b", "/b/aot"),
        ("", "relative", "/home/one/{}/aot"),
        ("", "", "/home/one/{}/aot"),
    ],
)
def test_the_place_follows_the_environment(
    kind: str, own: str, shared: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {f"AOT_{kind}_DIR": own, f"XDG_{kind}_HOME": shared, "HOME": "/home/one"}.items():
        monkeypatch.setenv(name.upper(), value)

    assert directories.directory_of(kind) == Path(place.format(KINDS[kind]))


def test_a_relative_place_is_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AOT_CACHE_DIR", "below")

    assert directories.directory_of("cache") == tmp_path / "below"


def test_without_the_variable_the_home_is_that_of_the_users_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "AOT_STATE_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)

    assert directories.directory_of("state") == Path(pwd.getpwuid(os.getuid()).pw_dir) / ".local/state/aot"


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_without_a_home_is_told_which_variable_names_a_place(homeless: None, kind: str) -> None:
    with pytest.raises(AotError, match=f"^{kind}: this user has no home directory; name one with AOT_{kind.upper()}_"):
        directories.directory_of(kind)


def test_without_a_home_there_is_no_cache_and_a_line_says_so(homeless: None, caplog: pytest.LogCaptureFixture) -> None:
    cache.warn.cache_clear()

    assert cache.own() is None
    assert caplog.messages == [
        "cache: this user has no home directory; name one with AOT_CACHE_DIR; what is built is not kept for the next "
        "build"
    ]


def test_without_a_home_what_is_built_is_held_against_the_other_directories_of_the_machine(homeless: None) -> None:
    assert os.getcwd() in canonical.machine_paths()


def test_a_command_that_needs_the_cache_says_so_in_a_line(homeless: None, refused: Callable[..., str]) -> None:
    assert refused(1, "gc") == "cache: this user has no home directory; name one with AOT_CACHE_DIR"


@pytest.mark.parametrize(("mode", "holds"), [(0o700, True), (0o755, True), (0o770, False), (0o703, False)])
def test_what_others_can_write_is_not_believed(tmp_path: Path, mode: int, holds: bool) -> None:
    tmp_path.chmod(mode)

    if holds:
        directories.check_directory(tmp_path, "state")
        return
    with pytest.raises(AotError, match=rf"others can write to it \(mode {mode:o}\); .* with AOT_STATE_DIR$"):
        directories.check_directory(tmp_path, "state")


def test_what_is_another_users_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    with pytest.raises(AotError, match=r"belongs to user \d+, not to 12345; name another directory with AOT_STATE_DIR"):
        directories.check_directory(tmp_path, "state")
