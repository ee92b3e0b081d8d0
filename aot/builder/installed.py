"""What is installed here, by digests: distributions, and our own sources."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import aot
from aot import digest

_LOCAL = {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json", "uv_cache.json"}
"""What installers write of their own."""

Resource = dict[str, Any]


def wheel(name: str) -> Resource | None:
    """An installed distribution by version, and the digest of those of its files that are the same on every machine."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    rows = {
        str(file): base64.urlsafe_b64decode(file.hash.value + "=").hex()
        for file in found.files or ()
        if file.hash is not None and file.hash.mode == "sha256" and _is_shared(str(file))
    }
    return {"name": name, "uri": f"pkg:pypi/{name}@{found.version}", "digest": {"dirHash": dir_hash(rows)}}


def dir_hash(rows: Mapping[str, str]) -> str:
    """in-toto's dirHash, Go's Hash1 in hex: over the lines that `sha256sum` prints of files, sorted by path."""
    lines = (f"{rows[path].removeprefix('sha256:')}  {path}\n" for path in sorted(rows))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _is_shared(path: str) -> bool:
    """Whether a row of RECORD is of the wheel: scripts and what is compiled or noted at installation are not."""
    return not (path.startswith(("..", "/")) or path.endswith(".pyc") or Path(path).name in _LOCAL)


def own(parts: Iterable[str] = (".",)) -> dict[str, str]:
    """Our source and data files, by path from the package's parent: all, or of some parts of it.

    A part is the path of a file or of a directory with all that is in it; `""` are the files of no package.
    """
    root = Path(aot.__file__).resolve().parent
    found = (path for part in parts for path in (root.iterdir() if not part else _within(root / part)))
    files = (path for path in found if path.suffix in (".py", ".json"))
    return {path.relative_to(root.parent).as_posix(): digest.of_file(path) for path in files}


def _within(part: Path) -> Iterable[Path]:
    assert part.exists(), part
    return part.rglob("*") if part.is_dir() else [part]
