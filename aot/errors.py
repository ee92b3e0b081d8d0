"""The error tree. The class decides the exit code; the message is one line that says what to do next."""

from typing import Any


def shown(value: Any) -> str:
    """A value as a message shows it, in at most 80 characters."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python spells no integer of more than 4,300 digits
        return f"a {type(value).__name__} with integers of thousands of digits"


class AotError(Exception):
    """Anything that a user, a file or a machine can cause; the command line prints it without a traceback."""

    exit_code = 1


class InputError(AotError):
    """The command line, the manifest, or what either names: missing, unreadable, not fitting, already there."""

    exit_code = 2


class ManifestError(InputError):
    """One or more faults of a manifest, a line each: `file:line: field: what is wrong`."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class NoEntryError(AotError):
    """A request that no entry of the bundle serves: too long, too many rows."""

    exit_code = 3


class MachineError(AotError):
    """Bundle and machine do not fit: target, device, jaxlib, or a newer format version."""

    exit_code = 4


class BundleError(AotError):
    """A fault inside a bundle directory."""

    exit_code = 5


class DifferenceError(AotError):
    """What was made anew is not what is stored: not reproduced, or with other results."""

    exit_code = 6


class ExpiredError(AotError):
    """Programs are out of their compatibility window: those that would have to be compiled, or those to be built."""

    exit_code = 7


class PeerError(AotError):
    """Another process that serves the same bundle together with this one is gone, or never came."""
