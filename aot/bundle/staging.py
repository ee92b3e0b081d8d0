"""Directories built out of sight beside their destination, and the one rename that shows them."""

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from aot.errors import AotError, InputError

_AT_FDCWD = -100
_NO_REPLACE, _EXCHANGE = 1, 2  # flags of Linux's renameat2(2)
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
_MISNAMED = {errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.EBUSY}


@contextlib.contextmanager
def directory(destination: Path) -> Iterator[Path]:
    """A new, locked directory beside an absolute destination; what is left of it is removed at the end.

    Leftovers of killed builds of the same destination, which nobody holds locked, are removed first.
    """
    with faults(destination):
        made = _make_parents(destination.parent)
        try:
            _sweep(destination)
            staged, lock = _create(destination)
        except BaseException:
            _remove_empty(made)
            raise
    try:
        yield staged
    finally:
        remove(staged)
        os.close(lock)
        _remove_empty(made)


def destination_of(staged: Path) -> Path:
    """The destination that a staging directory is for."""
    return staged.with_name(staged.name.removeprefix(".").rsplit(".", 2)[0])


def show(staged: Path, destination: Path) -> None:
    """Renames to a destination that does not exist. Raises FileExistsError."""
    try:
        _rename_with(staged, destination, _NO_REPLACE)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        if os.path.lexists(destination):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(destination)) from error
        os.rename(staged, destination)


def swap(staged: Path, destination: Path) -> None:
    """Lets the two change places: at once where the system can, else with a moment in which there is neither."""
    try:
        _rename_with(staged, destination, _EXCHANGE)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        aside = _name_for(destination)
        os.rename(destination, aside)
        try:
            os.rename(staged, destination)
        except BaseException:
            os.rename(aside, destination)
            raise
        os.rename(aside, staged)


def sync(path: Path) -> None:
    """Waits until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes whatever is at a path, following no symlink; nothing there is fine."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def faults(destination: Path) -> Iterator[None]:
    """Turns what the file system refuses into one line."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        kind = InputError if error.errno in _MISNAMED else AotError
        raise kind(f"{destination}: {reason}; nothing was written; make room or name another directory") from error


def _make_parents(parent: Path) -> list[Path]:
    """Makes the missing parents; gives them, the innermost first."""
    missing = [path for path in (parent, *parent.parents) if not path.exists()]
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            made.insert(0, path)
    except BaseException:
        _remove_empty(made)
        raise
    return made


def _remove_empty(made: list[Path]) -> None:
    for path in made:
        with contextlib.suppress(OSError):
            path.rmdir()


def _name_for(destination: Path) -> Path:
    return destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.partial")


def _create(destination: Path) -> tuple[Path, int]:
    """A locked directory; a sweep that came between making and locking it just costs another try."""
    while True:
        staged = _name_for(destination)
        staged.mkdir(mode=0o755)
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(staged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if locked(lock) and os.fstat(lock).st_nlink:
                return staged, lock
            os.close(lock)


def _sweep(destination: Path) -> None:
    leftover = re.compile(re.escape(f".{destination.name}.") + r"[0-9a-f]{8}\.partial")
    for name in os.listdir(destination.parent):
        if leftover.fullmatch(name):
            with contextlib.suppress(OSError):
                _remove_unlocked(destination.with_name(name))


def _remove_unlocked(path: Path) -> None:
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if locked(lock):
            remove(path)
    finally:
        os.close(lock)


def locked(lock: int) -> bool:
    """Whether the lock is ours now. It goes with the process, so a killed build holds none."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _rename_with(source: Path, destination: Path, flags: int) -> None:
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError as error:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
    if renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(destination), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(destination))
