"""How long programs stay readable: release dates of jax, and its window for serialized programs."""

import calendar
import datetime
import json
from importlib import resources

from aot.errors import InputError

# https://docs.jax.dev/en/latest/export/export.html: a program is readable by releases up to six months newer.
_WINDOW_MONTHS = 6


def valid_until(version: str) -> str:
    """The last day, YYYY-MM-DD, on which every jax release promises to read what this one exports.

    Raises InputError for a release that is not in the table.
    """
    dates = table()
    if version not in dates:
        raise InputError(
            f"jax {version}: its release date is unknown, this aot knows {', '.join(dates)}; install one of these"
        )
    released = datetime.date.fromisoformat(dates[version])
    years, month = divmod(released.month - 1 + _WINDOW_MONTHS, 12)
    year, month = released.year + years, month + 1
    return released.replace(
        year=year, month=month, day=min(released.day, calendar.monthrange(year, month)[1])
    ).isoformat()


def table() -> dict[str, str]:
    """The day on which each known release of jax was published; the file names its source."""
    dates: dict[str, str] = json.loads(resources.files(__package__).joinpath("releases.json").read_text())["jax"]
    return dates
