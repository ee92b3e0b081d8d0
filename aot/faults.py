"""Faults: collects what is wrong with an input, so that all of it is reported at once."""

from dataclasses import dataclass

from aot.errors import InputError, ManifestError


class Faults:
    """What was found to be wrong, in order: where and what, each once."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    @property
    def lines(self) -> tuple[str, ...]:
        """A line for each fault: `place: what is wrong`."""
        return tuple(self._lines)

    def add(self, place: str, text: str) -> None:
        """Notes a fault at a place; an empty one where the text begins with the place itself."""
        self._lines.setdefault(f"{place}: {text}" if place else text)

    def collecting(self, place: str = "") -> "Collecting":
        """A context that turns an InputError into faults at a place."""
        return Collecting(self, place)

    def raise_all(self) -> None:
        """Raises ManifestError with a line for each fault, where there is one."""
        if self._lines:
            raise ManifestError(*self._lines)


@dataclass(frozen=True)
class Collecting:
    """Ends a block at its first InputError, whose lines become faults."""

    faults: Faults
    place: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, InputError):
            for text in str(error).splitlines():
                self.faults.add(self.place, text)
        return isinstance(error, InputError)
