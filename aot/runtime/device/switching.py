"""How often threads take turns at Python: more often than by default, while what is run needs it at every call."""

import contextlib
import sys
import threading
from collections.abc import Iterator

_OFTEN = 0.0001
"""Seconds that another thread may go on for once this one needs Python again, a fiftieth of Python's default."""

_lock = threading.Lock()
_depth = 0
_before = 0.0


@contextlib.contextmanager
def often() -> Iterator[None]:
    """Has threads of this process give way after a tenth of a millisecond, as long as anyone is in here."""
    global _depth, _before
    with _lock:
        if not _depth:
            _before = sys.getswitchinterval()
            sys.setswitchinterval(min(_before, _OFTEN))
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth:
                sys.setswitchinterval(_before)
