"""How many programs may be compiled at a time in the memory that is free."""

import functools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from aot import system

log = logging.getLogger("aot")

# A worker's peak, measured with jaxlib 0.10.2 and libtpu 0.0.42 over the programs of Qwen2 0.5 B (1.7 to 210 KB) and of
# manifests/tiny: 195 to 513 MB, for a TPU 414 to 985, never more than this makes of a program's size. Its arguments do
# not matter: nothing allocates them.
_WORKER = {"cpu": 350 << 20, "cuda": 350 << 20, "tpu": 500 << 20}
_OF_PROGRAM = {"cpu": 2048, "cuda": 2048, "tpu": 2600}
"""Bytes for each byte of the program."""

_UNLIMITED = 1 << 60  # what version 1 of control groups says for no limit is near 2 to the 63rd


def peak(size: int, platform: str) -> int:
    """Bytes that a worker takes at most while it compiles a program of this size."""
    return _WORKER[platform] + _OF_PROGRAM[platform] * size


class Room:
    """The memory that was free when it was first asked for, before anything runs in it."""

    @functools.cached_property
    def _free(self) -> int:
        return available()

    def holds(self, running: Sequence[int], peak: int) -> bool:
        """Whether a compile runs beside others, each by the bytes that it takes. One alone always does."""
        free, wanted = self._free, sum(running) + peak
        if not running or wanted <= free:
            return True
        _warn(
            f"compile: {len(running) + 1} at a time would take {wanted / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of "
            f"memory are free: {len(running)} at a time"
        )
        return False


@functools.cache
def _warn(message: str) -> None:
    log.warning("%s", message)


def available(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process can still take: of the machine, and of each control group that it is in."""
    try:
        machine = system.available_memory(proc)
    except (OSError, KeyError):  # no Linux
        machine = _UNLIMITED
    return min([machine, *_free(proc, groups)])


def _free(proc: Path, groups: Path) -> Iterable[int]:
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, used, reclaimable = groups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, used = groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            reclaimable = "total_inactive_file"
        else:
            continue
        inner = root / path.strip("/")
        for group in (inner, *inner.parents):  # inside a container the path may be one of the host's
            if group.is_relative_to(root) and (free := _left(group, limit, used, reclaimable)) is not None:
                yield free


def _left(group: Path, limit: str, used: str, reclaimable: str) -> int | None:
    try:
        most = (group / limit).read_text().strip()
        if most == "max" or int(most) >= _UNLIMITED:
            return None
        taken = int((group / used).read_text()) - system.kernel_table(group / "memory.stat").get(reclaimable, 0)
    except (OSError, ValueError):
        return None
    return max(0, int(most) - taken)
