"""How long programs stay readable, and what follows when that time is over.

Stored executables do not expire: the jaxlib that built them goes on loading them.
"""

import datetime
import logging
import os
from pathlib import Path

from aot.bundle.store import Bundle
from aot.errors import ExpiredError, InputError

log = logging.getLogger("aot")

TODAY_VARIABLE = "AOT_TODAY"
"""Names another day than the clock's, to ask what will be then."""
NOTICE = datetime.timedelta(weeks=8)
"""How long before the end it is told."""


def today_utc() -> datetime.date:
    """The day by the machine's clock, in UTC, unless AOT_TODAY names one; nothing else here asks a clock."""
    named = os.environ.get(TODAY_VARIABLE)
    if not named:
        return datetime.datetime.now(datetime.UTC).date()
    try:
        return datetime.date.fromisoformat(named)
    except ValueError:
        raise InputError(f"{TODAY_VARIABLE}: must be a day as YYYY-MM-DD, got {named!r}; mend or unset it") from None


def has_expired(valid_until: str) -> bool:
    """Whether the last day on which every jax release reads the programs is over."""
    return today_utc() > _day(valid_until)


def expiry_notice(place: str, valid_until: str, advice: str) -> str | None:
    """A line for people once programs have expired or soon will, with what to do next; None before."""
    left = _day(valid_until) - today_utc()
    if left > NOTICE:
        return None
    if left.days < 0:
        return f"{place}: {expired_message(valid_until, advice)}"
    when = "today is the last day" if left.days == 0 else f"in {left.days} day{'s' if left.days > 1 else ''}"
    return f"{place}: its programs expire after {valid_until}, {when}; {advice}"


def expired_message(valid_until: str, advice: str) -> str:
    """The message that programs have expired, and what to do next."""
    return f"its programs expired after {valid_until}; {advice}"


def renewal_advice(path: Path) -> str:
    """What to do about the programs of a bundle."""
    return f"renew them: aot refresh {path} -o NEW"


def warn_of_expiry(bundle: Bundle) -> None:
    """Logs that a bundle has expired, which its stored executables outlive."""
    if has_expired(bundle.index.valid_until):
        log.warning(
            "bundle %s: %s", bundle.path, expired_message(bundle.index.valid_until, renewal_advice(bundle.path))
        )


def check_expiry(bundle: Bundle, cause: str) -> None:
    """Raises ExpiredError where a program that has no executable for this machine would be compiled too late."""
    if has_expired(bundle.index.valid_until):
        raise ExpiredError(
            f"bundle {bundle.path}: a program would have to be compiled ({cause}), and "
            f"{expired_message(bundle.index.valid_until, renewal_advice(bundle.path))}"
        )


def _day(valid_until: str) -> datetime.date:
    return datetime.date.fromisoformat(valid_until)
