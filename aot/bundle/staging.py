"""Directories built out of sight beside their destination, and the one rename that shows them."""

import contextlib
import ctypes
import errno
import fcntl
import functools
import logging
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from aot import digest
from aot.errors import AotError, InputError

log = logging.getLogger("aot")

_AT_FDCWD = -100
_NO_REPLACE, _EXCHANGE = 1, 2  # flags of Linux's renameat2(2)
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}
_MISNAMED = {errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.EBUSY}

_OLD = 86400.0  # seconds


@contextlib.contextmanager
def directory(destination: Path) -> Iterator[Path]:
    """A new, locked directory beside an absolute destination; what is left of it is removed at the end.

    Leftovers of killed builds of the same destination are removed first, those of other machines after a day.
    """
    with file_faults(destination):
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


def show_bundle(staged: Path, destination: Path) -> None:
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
    except OSError as error:
        _warn("does not say when data are on the disk", error)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes whatever is at a path, following no symlink; nothing there is fine."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def file_faults(destination: Path) -> Iterator[None]:
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
    return destination.with_name(f".{destination.name}.{_owner()}-{secrets.token_hex(4)}.partial")


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
    leftover = re.compile(re.escape(f".{destination.name}.") + r"(?:([0-9a-f]{8}-[0-9]+-[0-9]+)-)?[0-9a-f]{8}\.partial")
    for name in os.listdir(destination.parent):
        if found := leftover.fullmatch(name):
            with contextlib.suppress(OSError):
                _remove_left(destination.with_name(name), found[1] or "")


def _remove_left(path: Path, made_by: str) -> None:
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        ours = _lock(lock)
        if ours is not False and (_is_gone(made_by, ours is True) or _is_old(path)):
            remove(path)
    finally:
        os.close(lock)


@functools.cache
def _host() -> str:
    """A name of this start of this machine, which no other has."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        start = platform.node()
    return digest.hex_of(digest.digest_of(start.encode(errors="replace")))[:8]


@functools.cache
def _namespace() -> int:
    """Within a machine, processes of one namespace know each other by their numbers."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _owner() -> str:
    """Names this process among those of all machines that see a directory: host, namespace and number."""
    return f"{_host()}-{_namespace()}-{os.getpid()}"


def _is_gone(made_by: str, unlocked: bool) -> bool:
    """Whether a process has certainly ended, which has no lock on its directory any more where there are locks.

    Locks hold within a machine; on a network file system they say nothing of another one.
    """
    host, _, rest = made_by.partition("-")
    namespace, _, number = rest.partition("-")
    if host != _host():
        return False
    return unlocked if namespace != str(_namespace()) else not _lives(int(number))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # a system that does not say
        return True
    return status.rpartition(") ")[2][:1] not in ("Z", "X")  # ended, and nobody has asked how


def _is_old(path: Path) -> bool:
    """Whether nothing has been written to a staging directory for so long that nobody is at work on it."""
    places = (path, path / "blobs", path / "blobs" / "sha256")
    return time.time() - max(place.stat().st_mtime for place in places if place.exists()) > _OLD


def locked(lock: int) -> bool:
    """Whether nobody else has the lock now. It goes with the process, so a killed build holds none."""
    return _lock(lock) is not False


def _lock(lock: int) -> bool | None:
    """Whether the lock is ours now; None where the file system knows no locks, and a line says so."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _warn("locks no files", error)
        return None
    return True


@functools.cache
def _remark(what: str) -> None:
    log.warning("%s", what)


def _warn(lacks: str, error: OSError) -> None:
    """Says once what a file system does not do. Raises any other error."""
    if error.errno not in _UNSUPPORTED | {errno.ENOLCK}:
        raise error
    _remark(f"the file system {lacks} ({(error.strerror or str(error)).lower()}); going on without")


def _rename_with(source: Path, destination: Path, flags: int) -> None:
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError as error:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
    if renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(destination), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(destination))
