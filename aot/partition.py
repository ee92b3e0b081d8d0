"""Partition rules: ordered (pattern, mesh axis of each array axis) over parameter and state paths."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from aot.errors import ManifestError

Axes = tuple[str | None, ...]
Rules = tuple[tuple[str, Axes], ...]

ONE_DEVICE: Rules = ((".*", ()),)
"""Everything on the one device there is."""


def resolve(rules: Rules, paths: Iterable[str] | Mapping[str, Any]) -> dict[str, Axes]:
    """The axes of the first rule whose pattern matches the whole path.

    Raises ManifestError with a line for each path that no rule matches.
    """
    compiled = [(re.compile(pattern), axes) for pattern, axes in rules]
    found = {path: next((axes for pattern, axes in compiled if pattern.fullmatch(path)), None) for path in paths}
    if lost := [path for path, axes in found.items() if axes is None]:
        raise ManifestError(*(f"partition: no rule matches {path!r}; add one" for path in lost))
    return {path: axes for path, axes in found.items() if axes is not None}
