"""`aot gc`: what goes from the build cache, what stays, and what it says."""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aot.builder.reuse.cache import Cache
from aot.cli import main
from aot.cli.commands import gc

HOUR = 3600


def factors(number: int) -> dict[str, object]:
    return {"kind": "executable", "number": number}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """Five entries of more than 1000 bytes; number N was used N hours ago."""
    made = Cache(tmp_path / "cache")
    monkeypatch.setenv("AOT_CACHE_DIR", str(made.root))
    for number in range(5):
        made.write(factors(number), None, bytes(1000))
        used = time.time() - number * HOUR - 60
        os.utime(made._path(factors(number)), (used, used))
    return made


def present(cache: Cache) -> list[int]:
    return [number for number in range(5) if cache._path(factors(number)).exists()]


def size(cache: Cache) -> int:
    return sum(path.stat().st_size for path in cache.root.glob("*/*"))


def test_without_options_it_tells_the_size_and_keeps_every_entry(cache: Cache, document: Callable[..., dict]) -> None:
    assert document("gc") == {"removed": 0, "removed_bytes": 0, "kept": 5, "kept_bytes": size(cache)}
    assert present(cache) == [0, 1, 2, 3, 4]


def test_what_was_used_least_recently_goes_first(cache: Cache, document: Callable[..., dict]) -> None:
    each = size(cache) // 5
    found = document("gc", "--max-size", f"{3 * each + 1}B")

    assert present(cache) == [0, 1, 2]
    assert found == {"removed": 2, "removed_bytes": 2 * each, "kept": 3, "kept_bytes": 3 * each}


def test_reading_an_entry_is_a_use(cache: Cache, document: Callable[..., dict]) -> None:
    cache.read(factors(4))
    document("gc", "--max-size", "2K")

    assert present(cache) == [4]


def test_what_was_not_used_for_so_long_goes(cache: Cache, document: Callable[..., dict]) -> None:
    document("gc", "--older-than", "2h")

    assert present(cache) == [0, 1]


@pytest.mark.parametrize("options", [["--max-size", "2K"], ["--older-than", "90m"], ["--max-size", "0"], []])
def test_a_dry_run_tells_the_same_and_removes_nothing(
    cache: Cache, options: list[str], document: Callable[..., dict]
) -> None:
    (cache.root / "executable" / f".{'a' * 64}.0123abcd.partial").write_bytes(b"half")
    before = sorted(cache.root.rglob("*"))
    told = document("gc", *options, "--dry-run")
    after = sorted(cache.root.rglob("*"))

    assert after == before
    assert document("gc", *options) == told


def test_leftovers_and_damaged_entries_go_and_what_is_being_written_stays(
    cache: Cache, document: Callable[..., dict]
) -> None:
    damaged = cache._path(factors(3))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    left, busy = (cache.root / "executable" / f".{'a' * 64}.{number:08x}.partial" for number in (1, 2))
    left.write_bytes(b"half")
    with busy.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        found = document("gc")

    assert found["removed"] == 2
    assert present(cache) == [0, 1, 2, 4]
    assert (left.exists(), busy.exists()) == (False, True)


def test_files_that_are_not_the_caches_stay(cache: Cache, document: Callable[..., dict]) -> None:
    others = [cache.root / "notes", cache.root / "executable" / "notes", cache.root / "executable" / ".x.partial"]
    for path in others:
        path.write_text("mine")
    document("gc", "--max-size", "0", "--older-than", "0s")

    assert present(cache) == []
    assert [path for path in others if not path.exists()] == []


def test_a_cache_that_was_never_made_is_empty(
    tmp_path: Path, document: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOT_CACHE_DIR", str(tmp_path / "none"))

    assert document("gc") == {"removed": 0, "removed_bytes": 0, "kept": 0, "kept_bytes": 0}
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--max-size", "2X"), ("--max-size", "2"), ("--max-size", "-1"), ("--max-size", "G"), ("--older-than", "5M")],
)
def test_a_quantity_without_sense_is_refused(option: str, value: str, refused: Callable[..., str]) -> None:
    kind = "size" if option == "--max-size" else "age"

    assert f"'{option}': {value!r} is no {kind}; write a number and one of " in refused(2, "gc", option, value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2G", 2 << 30),
        ("2GiB", 2 << 30),
        ("2gib", 2 << 30),
        ("2GB", 2 * 10**9),
        ("2 GB", 2 * 10**9),
        ("1.5G", 3 << 29),
        ("0.1kb", 100),
        ("500M", 500 << 20),
        ("7B", 7),
        ("0", 0),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert gc.SIZE_TYPE.convert(text, None, None) == size


def test_ages_are_read_as_people_write_them() -> None:
    assert [gc.AGE.convert(text, None, None) for text in ("90s", "1.5h", "2 d", "1w")] == [90, 5400, 172800, 604800]


def test_people_read_the_same(cache: Cache, capfd: pytest.CaptureFixture[str]) -> None:
    each = size(cache) // 5
    main.run(["gc", "--older-than", "2h", "--dry-run"])
    out, _ = capfd.readouterr()

    assert out.splitlines() == [
        f"would remove 3 files, {3 * each / 1024:.1f} KiB",
        f"kept 2 files, {2 * each / 1024:.1f} KiB, in {cache.root}",
    ]
