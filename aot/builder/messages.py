"""How a builder and the processes that work for it speak: messages in msgpack, each a frozen value of a class of ours.

A message is the name of its class and its fields, which whoever receives it reads by their type hints, strictly. Names
of files that are not UTF-8 come through as well. What is declared as `Any` is what JSON can say.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import msgpack
import msgspec

from aot import errors
from aot.errors import AotError
from aot.targets import Target, target_of

T = TypeVar("T")

_ERRORS = "surrogateescape"  # as Python has them in such names
_PIECE = 1 << 16


@dataclass(frozen=True)
class Begun:
    """A step begins, as `aot.builder.report.Report.step` is told of it."""

    step: str
    total: int | None
    kept: int


@dataclass(frozen=True)
class Advanced:
    """A part of a step is done, as `aot.builder.pace.Progress` is told of it; and the part, as `plain` has it."""

    detail: str
    left: float | None = None
    total: int | None = None
    made: Any = None


@dataclass(frozen=True)
class Logged:
    """Something that the user should read."""

    text: str


@dataclass(frozen=True)
class Failed:
    """An error, by its class and message: what was asked for is not done."""

    error: str
    text: str

    @classmethod
    def by(cls, error: AotError) -> "Failed":
        """What to tell of an error."""
        return cls(type(error).__name__, str(error))

    def raised(self) -> AotError:
        """The error, to be raised here as well."""
        if self.error == "ManifestError":
            return errors.ManifestError(*self.text.splitlines())
        made: AotError = getattr(errors, self.error)(self.text)
        return made


@dataclass(frozen=True)
class Asked:
    """A task of `aot.builder.tasks`: the module and the name of its class, and itself as `plain` has it."""

    module: str
    name: str
    task: Any


@dataclass(frozen=True)
class Done:
    """What was asked for, as `plain` has it."""

    result: Any


def packed(value: Any) -> bytes:
    """A value of a class of ours as a message."""
    data: bytes = msgpack.packb((type(value).__name__, plain(value)), unicode_errors=_ERRORS)
    return data


def received(stream: IO[bytes], *kinds: type[T], lists: bool = False) -> Iterator[T]:
    """The messages of a stream as they come, each of one of these classes.

    What is declared as `Any` comes with tuples, as records have it, or with lists, as plans do.
    """
    known = {kind.__name__: kind for kind in kinds}
    unpacker = msgpack.Unpacker(use_list=lists, max_buffer_size=0, strict_map_key=False, unicode_errors=_ERRORS)
    while piece := cast(Any, stream).read1(_PIECE):
        unpacker.feed(piece)
        yield from (read(known[name], fields) for name, fields in unpacker)


def plain(value: Any) -> Any:
    """Dataclasses, tuples, mappings, targets, paths and bytes as msgpack can say them; `read` gives the value back."""
    if isinstance(value, Target):
        return value.plain()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    raise NotImplementedError(f"no message says {type(value).__name__}: {value!r}")


def read(kind: type[T], fields: Any) -> T:
    """The value of a type hint in what `plain` made of it."""
    return msgspec.convert(fields, kind, dec_hook=_made)


def _made(kind: type, value: Any) -> Any:
    if kind is Path and type(value) is str:
        return Path(value)
    if issubclass(kind, Target):
        return target_of(value)
    raise ValueError(f"must be of {kind.__name__}, got {value!r}")
