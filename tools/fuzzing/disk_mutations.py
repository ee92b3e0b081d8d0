"""Mutations of files whose digests stay: damage, and what else may lie where a file should."""

import functools
import os
import random
from collections.abc import Callable
from pathlib import Path

from aot import digest
from aot.bundle.store import BLOBS
from fuzzing import spoiling
from fuzzing.draft import Draft, fresh
from fuzzing.index_mutations import Mutation


def damage(rng: random.Random, draft: Draft) -> str:
    """A flipped bit in any blob, its digest kept."""
    name, kind = _any(rng, draft)
    data, said = spoiling.one_bit(rng, draft.source.blob(name))
    return _in_place(draft, name, kind, data, said)


def shortened(rng: random.Random, draft: Draft) -> str:
    """A blob cut short, or lengthened, or empty, its digest kept."""
    name, kind = _any(rng, draft)
    data = draft.source.blob(name)
    at = rng.randrange(len(data))
    made, said = rng.choice(((data[:at], f"cut after {at}"), (data + b"\0", "a byte more"), (b"", "empty")))
    return _in_place(draft, name, kind, made, said)


def swapped(rng: random.Random, draft: Draft) -> str:
    """The bytes of one blob under the name of another."""
    (name, kind), (other, _) = _any(rng, draft), _any(rng, draft)
    if name == other:
        return damage(rng, draft)
    return _in_place(draft, name, kind, draft.source.blob(other), f"bytes of {other[7:19]}")


def odd_file(rng: random.Random, draft: Draft) -> str:
    """Something else where a file should be, or a file where nothing should be."""
    what = rng.choice(("index.json", "oci-layout", "blob", "blob", "blob", "blobs", "surplus"))
    if what == "surplus":
        return _surplus(rng, draft)
    place = BLOBS / digest.hex_of(_any(rng, draft)[0]) if what == "blob" else Path(what)
    how = rng.choice(list(_KINDS))
    draft.after.append(functools.partial(_put, place=place, make=_KINDS[how]))
    draft.damaged = how != "a link to its bytes"
    return f"{place}: {how}"


_KINDS: dict[str, Callable[[Path, Path], object]] = {
    "nothing": lambda path, moved: None,
    "a pipe": lambda path, moved: os.mkfifo(path),
    "a directory": lambda path, moved: path.mkdir(),
    "a loop": lambda path, moved: path.symlink_to(path.name),
    "a link to nothing": lambda path, moved: path.symlink_to("nowhere"),
    "/dev/zero": lambda path, moved: path.symlink_to("/dev/zero"),
    "/dev/full": lambda path, moved: path.symlink_to("/dev/full"),
    "/proc/self/mem": lambda path, moved: path.symlink_to("/proc/self/mem"),
    "a link out": lambda path, moved: path.symlink_to("/etc/passwd"),
    "a link to its bytes": lambda path, moved: path.symlink_to(moved.resolve()),
}


def _put(root: Path, place: Path, make: Callable[[Path, Path], object]) -> None:
    elsewhere = root.with_name("moved")
    elsewhere.mkdir()
    make(root / place, (root / place).rename(elsewhere / place.name))


def _surplus(rng: random.Random, draft: Draft) -> str:
    name = rng.choice(
        ("notes.txt", ".hidden", "blobs/md5", "blobs/sha256/x", f"blobs/sha256/{'0' * 64}", "new\nline", "\udcff")
    )
    draft.after.append(lambda root: (root / name).write_bytes(b""))
    draft.damaged = True
    return f"{name!r} besides"


def _any(rng: random.Random, draft: Draft) -> tuple[str, str]:
    """Any blob, each kind as likely as others."""
    bundle = draft.source.bundle
    kinds: dict[str, list[str]] = {"index": [bundle.digest], "manifest": [bundle.manifest_digest]}
    for layer in bundle.manifest.layers:
        kinds.setdefault(layer.media_type, []).append(layer.digest)
    kind = rng.choice(list(kinds))
    return rng.choice(kinds[kind]), kind


def _in_place(draft: Draft, name: str, kind: str, data: bytes, said: str) -> str:
    draft.after.append(lambda root: fresh(root / BLOBS / digest.hex_of(name), data))
    draft.damaged = True
    return f"{kind} {name[7:19]}, digest kept: {said}"


_ALL = (damage, shortened, swapped, odd_file)

FAMILIES: dict[str, Mutation] = {mutate.__name__.replace("_", " "): mutate for mutate in _ALL}
