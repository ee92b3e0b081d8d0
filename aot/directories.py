"""The directories in which this user's files of ours lie, and whether what is there can be believed."""

import os
from pathlib import Path

from aot.errors import AotError

_IN_HOME = {"cache": ".cache", "state": ".local/state"}


def directory_of(kind: str) -> Path:
    """`$AOT_<KIND>_DIR`, or `aot` in the user's `cache` or `state` directory (XDG Base Directory Specification).

    Raises AotError for a user without a home.
    """
    if named := os.environ.get(_variable(kind)):
        return Path(named).absolute()
    shared = Path(os.environ.get(f"XDG_{kind.upper()}_HOME", ""))
    try:
        return (shared if shared.is_absolute() else Path.home() / _IN_HOME[kind]).absolute() / "aot"
    except RuntimeError as error:
        raise AotError(f"{kind}: this user has no home directory; name one with {_variable(kind)}") from error


def check_directory(path: Path, kind: str) -> None:
    """Raises AotError for a directory of this kind that is another user's or that others can write."""
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise AotError(
            f"{kind} {path}: belongs to user {status.st_uid}, not to {os.geteuid()}; name another directory with "
            f"{_variable(kind)}"
        )
    if status.st_mode & 0o022:
        raise AotError(
            f"{kind} {path}: others can write to it (mode {status.st_mode & 0o777:03o}); chmod go-w it, or name "
            f"another directory with {_variable(kind)}"
        )


def _variable(kind: str) -> str:
    return f"AOT_{kind.upper()}_DIR"
