"""How many compiles the free memory allows, and when they will be done."""

from pathlib import Path

import pytest

from aot.builder import pace
from aot.builder.compiling import memory

GIB = 1 << 30
LARGE = 1 << 19  # bytes of a program whose compile is reckoned at 1 GiB and a third


def proc(home: Path, cgroup: str, available: int) -> Path:
    (home / "proc" / "self").mkdir(parents=True)
    (home / "proc" / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {available // 1024} kB\n")
    (home / "proc" / "self" / "cgroup").write_text(cgroup)
    return home / "proc"


def group(directory: Path, **files: object) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name.replace("_", ".", 1)).write_text(f"{content}\n")


def test_the_machine_bounds_where_no_group_does(tmp_path: Path) -> None:
    group(tmp_path / "cgroup/app", memory_max="max", memory_current=5)

    assert memory.available(proc(tmp_path, "0::/app\n", GIB), tmp_path / "cgroup") == GIB


def test_a_control_group_bounds_and_its_file_cache_counts_as_free(tmp_path: Path) -> None:
    stat = "anon 1\ninactive_file 300"
    group(tmp_path / "cgroup/app/inner", memory_max="max", memory_current=5)
    group(tmp_path / "cgroup/app", memory_max=1000, memory_current=900, memory_stat=stat)

    assert memory.available(proc(tmp_path, "0::/app/inner\n", GIB), tmp_path / "cgroup") == 400


def test_a_control_group_of_version_1_bounds(tmp_path: Path) -> None:
    files = {"limit": 1000, "usage": 900}
    names = {f"memory_{name}_in_bytes": value for name, value in files.items()}
    group(tmp_path / "cgroup/memory", **names, memory_stat="total_inactive_file 1")
    table = "5:cpu:/elsewhere\n4:memory:/docker/of/the/host\n0::/\n"

    assert memory.available(proc(tmp_path, table, GIB), tmp_path / "cgroup") == 101


def test_a_system_that_tells_nothing_bounds_nothing(tmp_path: Path) -> None:
    assert memory.available(tmp_path / "proc", tmp_path / "cgroup") >= 1 << 50


@pytest.mark.parametrize(
    ("sizes", "free", "count"),
    [([LARGE] * 4, 6 * GIB, 4), ([LARGE] * 4, 3 * GIB, 2), ([LARGE, 0, 0, 0], 3 * GIB, 4), ([0], 0, 1)],
)
def test_as_many_are_compiled_at_a_time_as_have_room_in_what_was_free_before(
    sizes: list[int], free: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: free)
    room, running = memory.Room(), list[int]()
    for size in sizes:
        peak = memory.peak(size, "cpu")
        if room.holds(running, peak):
            running.append(peak)
        monkeypatch.setattr(memory, "available", lambda: 0)

    assert len(running) == count


def test_one_is_compiled_in_whatever_memory_there_is_and_a_line_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 0)
    room, peak = memory.Room(), memory.peak(LARGE, "cpu")

    assert [room.holds(running, peak) for running in ([], [peak], [peak])] == [True, False, False]
    assert [record.getMessage() for record in caplog.records] == [
        "compile: 2 at a time would take 2.7 GiB, and 0.0 GiB of memory are free: 1 at a time"
    ]


def test_the_rest_takes_as_long_for_its_cost_as_what_is_done() -> None:
    now = [100.0]
    clock = pace.Pace(60.0, lambda: now[0])
    now[0] += 10
    first = clock.left(20)
    now[0] += 4
    second = clock.left(20)

    assert (first, second) == (20.0, 7.0)
    assert clock.left(20) == 0
