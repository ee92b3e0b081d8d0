"""Distributed: what `aot.load` is told of the processes that serve a bundle together."""

from dataclasses import dataclass

from aot.errors import InputError

GATHER_SECONDS = 60.0
"""Seconds in which all processes have to come."""
_MOST, _LONGEST = 1 << 12, 86_400


@dataclass(frozen=True)
class Distributed:
    """One process among those that serve a bundle together."""

    coordinator: str
    """HOST:PORT of process 0, which listens there, as every process reaches it."""
    processes: int
    process: int
    """The number of this one."""
    timeout: float = GATHER_SECONDS
    """Seconds in which all have to come, and later on to take the same step of a request."""

    def __post_init__(self) -> None:
        for name in ("processes", "process"):
            if type(value := getattr(self, name)) is not int:
                raise InputError(f"{name}: must be an integer, got {value!r}")
        host, separator, port = str(self.coordinator).rpartition(":")
        if not (separator and host and port.isdecimal() and 0 < int(port) < 1 << 16):
            raise InputError(f"coordinator: must be HOST:PORT, got {self.coordinator!r}")
        if self.processes < 2:
            raise InputError(f"processes: must be at least 2, got {self.processes!r}; one needs no coordinator")
        if self.processes > _MOST:
            raise InputError(f"processes: must be at most {_MOST}, got {self.processes!r:.40}")
        if not 0 <= self.process < self.processes:
            raise InputError(f"process: must be from 0 to {self.processes - 1}, got {self.process!r}")
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float):
            raise InputError(f"timeout: must be a number of seconds, got {self.timeout!r:.40}")
        if not self.timeout > 0:
            raise InputError(f"timeout: must be above 0, got {self.timeout!r}")
        if self.timeout > _LONGEST:
            raise InputError(f"timeout: must be at most {_LONGEST}, got {self.timeout!r:.40}")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.coordinator.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)
