"""The build cache: what it keeps, by what, and what becomes of entries and directories that are not as they should."""

import dataclasses
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import TINY

from aot import chain
from aot import plan as plans
from aot.builder import settings
from aot.builder.lowering import layouts, sources
from aot.builder.reuse import cache, eviction, identity
from aot.builder.reuse.cache import Cache, Kept
from aot.errors import AotError
from aot.programs import steps
from aot.targets import CpuTarget

FACTORS = {"kind": "executable", "program": "sha256:1", "flags": ("--a", "--b")}
TARGET = CpuTarget("avx2", 32)


def entry(root: Path) -> Path:
    (found,) = root.glob("*/*")
    return found


@pytest.fixture
def kept(tmp_path: Path) -> Cache:
    """A cache with one entry."""
    made = Cache(tmp_path / "cache")
    made.write(FACTORS, {"bytes": 3}, b"abc")
    return made


def test_what_is_kept_is_found_by_equal_factors_in_another_process_or_order(kept: Cache) -> None:
    other = {name: list(value) if type(value) is tuple else value for name, value in reversed(FACTORS.items())}

    assert Cache(kept.root).read(other) == Kept({"bytes": 3}, b"abc")


@pytest.mark.parametrize("changed", [{"program": "sha256:2"}, {"flags": ("--b", "--a")}, {"more": 1}, {"kind": "x"}])
def test_another_factor_finds_nothing(kept: Cache, changed: dict[str, Any]) -> None:
    assert kept.read({**FACTORS, **changed}) is None


@pytest.mark.parametrize("at", ["magic", "digest", "payload", "end", "all"])
def test_a_damaged_entry_is_a_miss_and_removed_and_said(kept: Cache, at: str, caplog: pytest.LogCaptureFixture) -> None:
    path = entry(kept.root)
    raw = bytearray(path.read_bytes())
    if at in ("end", "all"):
        del raw[-1 if at == "end" else 0 :]
    else:
        raw[{"magic": 4, "digest": 100, "payload": -3}[at]] ^= 1
    path.write_bytes(raw)
    found = kept.read(FACTORS)

    assert found is None
    assert not path.exists()
    assert [record.getMessage() for record in caplog.records] == [
        f"cache {kept.root}: entry {path.name[:12]}… is damaged; removed, it is made again"
    ]


def test_an_entry_under_the_name_of_another_is_a_miss(kept: Cache) -> None:
    kept.write({**FACTORS, "program": "sha256:2"}, None, b"other")
    one, other = sorted(kept.root.glob("*/*"), key=lambda path: b"other" in path.read_bytes())
    other.replace(one)

    assert kept.read(FACTORS) is None


@pytest.mark.parametrize("folder", ["", "executable"])
@pytest.mark.parametrize("mode", [0o770, 0o703])
def test_a_directory_that_others_can_write_is_refused(
    kept: Cache, folder: str, mode: int, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept.root / folder).chmod(mode)
    monkeypatch.setenv("AOT_CACHE_DIR", str(kept.root))

    assert refused(1, "build", TINY, "-o", tmp_path / "bundle") == (
        f"cache {kept.root / folder}: others can write to it (mode {mode:o}); chmod go-w it, or name another directory "
        "with AOT_CACHE_DIR"
    )
    assert refused(1, "gc").startswith(f"cache {kept.root / folder}: others can write to it")


def test_a_directory_of_another_user_is_refused(kept: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    with pytest.raises(AotError, match=r"belongs to user \d+, not to 12345; name another directory with AOT_CACHE_DIR"):
        Cache(kept.root)


def test_what_a_cache_makes_belongs_to_its_user_alone(kept: Cache) -> None:
    modes = {path.stat().st_mode & 0o077 for path in (kept.root, *kept.root.rglob("*"))}

    assert modes == {0}


def test_a_cache_that_cannot_be_written_says_so_once_and_holds_nothing_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    made = Cache(tmp_path / "file" / "below")
    for number in range(3):
        made.write({**FACTORS, "number": number}, None, b"")

    assert made.read(FACTORS) is None
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, f"cache {made.root}: not a directory; what is built is not kept for the next build")
    ]


BUILD = """
import sys
from pathlib import Path
from aot.builder.reuse.cache import Cache
made, seed = Cache(Path(sys.argv[1])), int(sys.argv[2])
for number in range(100_000):
    value = (number * 7 + seed) % 40
    factors = {"kind": "executable", "number": value}
    found = made.read(factors)
    assert found is None or found.data == bytes([value]) * 50_000
    made.write(factors, None, bytes([value]) * 50_000)
"""


def test_builds_that_share_a_cache_and_are_killed_leave_whole_entries_alone(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    builds = [subprocess.Popen([sys.executable, "-c", BUILD, root, str(seed)]) for seed in range(3)]
    end = time.monotonic() + 60
    while len([path for path in root.glob("*/*") if path.name[0] != "."]) < 40 and time.monotonic() < end:
        time.sleep(0.05)
    busy = eviction.sweep(root, eviction.Rule())  # beside them: nothing of theirs is a leftover
    alive = [build.poll() for build in builds]
    for build in builds:
        build.kill()
        build.wait()
    swept = eviction.sweep(root, eviction.Rule())

    assert (alive, busy.removed) == ([None] * 3, 0)
    assert (swept.kept, swept.removed <= 3) == (40, True)
    # Whoever is killed between making a file and locking it leaves an empty one, which may be another's for a while.
    assert [path for path in root.glob("*/*") if path.name[0] == "." and path.stat().st_size] == []


# What decides a compile, a lowering: each factor counts, and all programs of ours have factors of their own.


def programs() -> set[layouts.Placed]:
    plan = plans.resolve(plans.read_manifest(TINY))
    laid, _ = layouts.laid_out_chains(plan, sources.model(plan))
    return {placed for each in laid for placed in each.programs}


def test_every_program_of_a_family_is_known_by_factors_of_its_own(tmp_path: Path) -> None:
    found = programs()
    names = [cache.Cache(tmp_path)._path(identity.program(placed, ()) or {}) for placed in found]

    assert len(found) == 135
    assert len(set(names)) == 135


def test_each_part_of_a_program_is_a_factor() -> None:
    placed = next(placed for placed in programs() if (placed.program.name, placed.platform) == ("block", "tpu"))
    made = placed.program
    (name, array), *rest = made.arguments
    wider = ((name, chain.Array((*array.shape, 2), array.dtype)), *rest)
    others = [
        dataclasses.replace(made, name="other"),
        dataclasses.replace(made, function=dataclasses.replace(made.function, window=99)),
        dataclasses.replace(made, arguments=wider),
        dataclasses.replace(made, donated=frozenset()),
    ]
    places = [
        {"platform": "cuda"},
        {"mesh": (("data", 2),)},
        {"arguments": (("x", ("data",)),)},
        {"results": (("x", ()),)},
    ]
    variants = [dataclasses.replace(placed, program=other) for other in others]
    variants += [dataclasses.replace(placed, **place) for place in places]
    found = [identity.program(variant, ()) for variant in [placed, *variants]] + [identity.program(placed, ("a_call",))]

    assert all(found)
    assert [one for i, one in enumerate(found) if one in found[:i]] == []


def test_a_function_that_may_hold_what_does_not_show_has_no_factors() -> None:
    hidden = [lambda x: x, test_each_part_of_a_program_is_a_factor, {"a": 1}, object(), print, Kept]
    hidden += [math.nan, np.int64(1), (steps.Embed, lambda: 0), dataclasses.make_dataclass("Users", ["x"])(1)]

    for value in hidden:
        with pytest.raises(identity.Unknown):
            identity.spelled_factor(value)


def test_each_part_of_a_compile_is_a_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    base = identity.executable("sha256:1", TARGET)
    found = [
        identity.executable("sha256:2", TARGET),
        identity.executable("sha256:1", CpuTarget("avx512", 32)),
        identity.executable("sha256:1", CpuTarget("avx2", 2)),
    ]
    monkeypatch.setattr(identity.compile, "flags", lambda target: ("--another",))
    found.append(identity.executable("sha256:1", TARGET))

    assert base not in found
    assert {"python", "machine", "wheels", "sources"} < base.keys()
    assert base["wheels"]["jaxlib"]["uri"].startswith("pkg:pypi/jaxlib@")


def test_options_of_jax_are_a_factor_of_a_lowering(monkeypatch: pytest.MonkeyPatch) -> None:
    placed = next(iter(programs()))
    base = identity.program(placed, ())
    monkeypatch.setattr(settings, "LOWERING", {**settings.LOWERING, "jax_enable_x64": True})

    assert identity.program(placed, ()) != base
