"""The installed jax: on which day it was released, and until when every jax reads the programs that it exports."""

import calendar
import datetime
import json
import sys
from dataclasses import dataclass
from importlib import metadata, resources

from aot.errors import ExpiredError, InputError
from aot.runtime.fitting import expiry

# https://docs.jax.dev/en/latest/export/export.html: a program is readable by releases up to six months newer.
_WINDOW_MONTHS = 6
_REFUSED = {"0.11.0": "0.11.1"}
"""Broken releases that nothing is built with, and the first that mends each."""
_PYTHON = (3, 12)
"""The oldest that jax is supported on from 0.11 on."""


@dataclass(frozen=True)
class Release:
    """A jax to build with, and the day on which it was released."""

    version: str
    day: datetime.date
    stated: bool = False
    """Whether that day is only what we were told, of a release that is not in the table."""

    @property
    def valid_until(self) -> str:
        """The last day, YYYY-MM-DD, on which every jax release promises to read what this one exports."""
        years, month = divmod(self.day.month - 1 + _WINDOW_MONTHS, 12)
        year, month = self.day.year + years, month + 1
        last = min(self.day.day, calendar.monthrange(year, month)[1])
        return datetime.date(year, month, last).isoformat()


def installed(stated: datetime.date | None = None) -> Release:
    """The installed jax. A release that is not in the table needs its day `stated`.

    Raises InputError for a release that nothing is built with, and where its day is unknown or stated wrongly.
    """
    check_supported()
    version, dates = _installed(), release_days()
    known = dates.get(version)
    if stated is not None:
        _check_stated(version, stated, known)
    if known is not None:
        return Release(version, datetime.date.fromisoformat(known))
    if stated is not None:
        return Release(version, stated, stated=True)
    fitting = ", ".join(name for name in dates if name not in _REFUSED)
    raise InputError(
        f"jax {version}: its release date is unknown, this aot knows {fitting}; install one of these, or say the day "
        "with --jax-released YYYY-MM-DD"
    )


def check_supported() -> None:
    """Raises InputError where the installed jax is a release that nothing is built with."""
    if (version := _installed()) in _REFUSED:
        raise InputError(f"jax {version} is not supported; install {_REFUSED[version]} or newer")


def release_days() -> dict[str, str]:
    """The day on which each known release of jax was published, the newest last; the file names its source."""
    dates: dict[str, str] = json.loads(resources.files(__package__).joinpath("releases.json").read_text())["jax"]
    return dates


def newer(release: Release) -> str:
    """What to install for programs that are readable for longer than those of a release."""
    later = [
        version for version, day in release_days().items() if day > release.day.isoformat() and version not in _REFUSED
    ]
    if not later:
        return "install a newer jax"
    python = ", on Python {}.{} or newer".format(*_PYTHON) if sys.version_info < _PYTHON else ""
    return f"install jax {later[-1]}{python}"


def expiry_remarks(release: Release) -> tuple[str, ...]:
    """A line where what a release exports has expired already, or soon will; empty before."""
    notice = expiry.expiry_notice(f"jax {release.version}", release.valid_until, newer(release))
    return () if notice is None else (notice,)


def check_in_time(release: Release, otherwise: str = "") -> None:
    """Raises ExpiredError where what a release exports has expired already; `otherwise` ends the advice."""
    if expiry.has_expired(release.valid_until):
        raise ExpiredError(
            f"jax {release.version}: {expiry.expired_message(release.valid_until, f'{newer(release)}{otherwise}')}"
        )


def _installed() -> str:
    """The version of the installed jax, which is not imported for that."""
    return metadata.version("jax")


def _check_stated(version: str, stated: datetime.date, known: str | None) -> None:
    """Raises InputError for a day on which this release cannot have been published."""
    if known is not None and known != stated.isoformat():
        raise InputError(f"--jax-released {stated}: jax {version} was released on {known}; leave the option out")
    if stated > (today := expiry.today_utc()):
        raise InputError(
            f"--jax-released {stated}: is after today, {today}; say the day on which jax {version} was released"
        )
