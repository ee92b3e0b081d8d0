"""Values of causes in words: on one line, and of two that differ the parts in which they begin to."""

import json
from typing import Any


def shorten(value: Any, longest: int) -> str:
    """A value on one line: text as it is, the rest as JSON, cut where it is long."""
    return _cut(_text(value), 0, longest)


def parted(a: Any, b: Any, longest: int) -> tuple[str, str]:
    """Two values on a line each; where they are long, the parts in which they begin to differ."""
    ours, theirs = _text(a), _text(b)
    places = (i for i, (x, y) in enumerate(zip(ours, theirs, strict=False)) if x != y)
    same = next(places, min(len(ours), len(theirs)))
    start = max(0, same - longest // 2) if max(len(ours), len(theirs)) > longest else 0
    return _cut(ours, start, longest), _cut(theirs, start, longest)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str, start: int, longest: int) -> str:
    return ("…" if start else "") + text[start : start + longest] + ("…" if start + longest < len(text) else "")
