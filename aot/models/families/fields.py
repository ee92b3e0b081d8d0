"""Fields: reads the fields of a configuration one by one and reports all their faults at once."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from aot.errors import InputError
from aot.faults import Faults

T = TypeVar("T")

_REQUIRED: Any = object()
_MOST = 2**31 - 1  # the largest size and index of an array axis
_LEAST = 1e-30  # numbers between it and its inverse stay finite in float32


class Fields:
    """The fields of a configuration. A faulty one reads as 1, and `done` raises for all of them."""

    def __init__(self, config: Mapping[str, Any], place: str, prefix: str = "", faults: Faults | None = None) -> None:
        self.config = config
        self._place = place
        self._prefix = prefix
        self._faults = Faults() if faults is None else faults

    def within(self, name: str, config: Mapping[str, Any]) -> "Fields":
        """The fields of the mapping that the field `name` holds; their faults are reported with these."""
        return Fields(config, self._place, f"{self._prefix}{name}.", self._faults)

    def mapping(self, name: str, default: Mapping[str, Any]) -> "Fields":
        """The fields of the mapping that the field `name` holds, or of another where it is absent or null."""
        value = self.config.get(name)
        if value is not None and not isinstance(value, Mapping):
            self.fault(name, f"must be a mapping, got {value!r}")
        return self.within(name, value if isinstance(value, Mapping) else default)

    def fault(self, name: str, text: str) -> None:
        self._faults.add(f"{self._place}: {self._prefix}{name}", text)

    def refuse(self, name: str, implemented: tuple[Any, ...]) -> None:
        """A fault where a field that changes the computation has none of these values; absent, it has the first."""
        value = self.config.get(name, implemented[0])
        if value not in implemented:
            self.fault(name, f"{value!r} is not implemented, only {implemented[0]!r} is")

    def done(self) -> None:
        """Raises InputError, a line for each fault."""
        if lines := self._faults.lines:
            raise InputError("\n".join(lines))

    def size(self, name: str, default: int = _REQUIRED, most: int = _MOST) -> int:
        """An int from 1 to `most`."""
        limit = "" if most == _MOST else f" of at most {most}"
        return int(self._checked(name, default, lambda value: _is_size(value, most), f"a positive integer{limit}", 1))

    def optional_size(self, name: str, default: int | None) -> int | None:
        """An int of at least 1, or None where the field is null."""
        return None if self.config.get(name, default) is None else self.size(name, default or 1)

    def index(self, name: str, default: int, count: int) -> int:
        """An int from 0 to `count` - 1."""
        return int(self._checked(name, default, lambda value: _is_index(value, count), f"an integer below {count}", 0))

    def number(self, name: str, default: float = _REQUIRED, least: float = 0) -> float:
        """A float32-sized number above 0 and not below `least`, as a float."""
        allowed = f"a number of at least {least}" if least else "a number above 0"
        return float(self._checked(name, default, lambda value: _is_number(value, least), allowed, 1))

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        return bool(self._checked(name, default, lambda value: isinstance(value, bool), "true or false", False))

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        """One of some words."""
        words = ", ".join(map(repr, allowed))
        return str(self._checked(name, default, lambda value: value in allowed, f"one of {words}", default))

    def _checked(self, name: str, default: Any, holds: Callable[[Any], bool], allowed: str, harmless: T) -> T:
        value = self.config.get(name, default)
        if value is _REQUIRED:
            self.fault(name, f"missing; give {allowed}")
        elif not holds(value):
            self.fault(name, f"must be {allowed}, got {value!r}")
        else:
            return value
        return harmless


def _is_size(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_index(value: object, count: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count


def _is_number(value: object, least: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and max(least, _LEAST) <= value <= 1 / _LEAST
