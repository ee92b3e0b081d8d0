"""How long a bundle's programs stay readable, and what follows when that time is over.

Stored executables do not expire: the jaxlib that built them goes on loading them.
"""

import datetime
import logging
from pathlib import Path

from aot.bundle.records import Index
from aot.bundle.store import Bundle
from aot.errors import ExpiredError

log = logging.getLogger("aot")

NOTICE = datetime.timedelta(weeks=8)
"""How long before the end it is told."""


def today() -> datetime.date:
    """The day by the machine's clock, in UTC; nothing else here asks a clock."""
    return datetime.datetime.now(datetime.UTC).date()


def expired(index: Index) -> bool:
    """Whether the last day on which every jax release reads the programs is over."""
    return today() > _last(index)


def notice(path: Path, index: Index) -> str | None:
    """A line for people once a bundle has expired or soon will; None before."""
    left = _last(index) - today()
    if left > NOTICE:
        return None
    if left.days < 0:
        return f"bundle {path}: {_expired(path, index)}"
    when = "today is the last day" if left.days == 0 else f"in {left.days} day{'s' if left.days > 1 else ''}"
    return f"bundle {path}: its programs expire after {index.valid_until}, {when}; {_advice(path)}"


def warn(bundle: Bundle) -> None:
    """Logs that a bundle has expired, which its stored executables outlive."""
    if expired(bundle.index):
        log.warning("bundle %s: %s", bundle.path, _expired(bundle.path, bundle.index))


def check(bundle: Bundle, cause: str) -> None:
    """Raises ExpiredError where a program that has no executable for this machine would be compiled too late."""
    if expired(bundle.index):
        raise ExpiredError(
            f"bundle {bundle.path}: a program would have to be compiled ({cause}), and "
            f"{_expired(bundle.path, bundle.index)}"
        )


def _expired(path: Path, index: Index) -> str:
    return f"its programs expired after {index.valid_until}; {_advice(path)}"


def _advice(path: Path) -> str:
    return f"renew them: aot refresh {path} -o NEW"


def _last(index: Index) -> datetime.date:
    return datetime.date.fromisoformat(index.valid_until)
