"""Lists files in an order that no file system gives: an audit's processes run this as their `sitecustomize`.

Python then runs it before anything else. The order depends on the name of the directory that it lies in.
"""

import functools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

_random = random.Random(Path(__file__).parent.name)


class _Entries:
    """What `os.scandir` gives: an iterator that is a context."""

    def __init__(self, entries: list["os.DirEntry[Any]"]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator["os.DirEntry[Any]"]:
        return self._entries

    def __next__(self) -> "os.DirEntry[Any]":
        return next(self._entries)

    def __enter__(self) -> "_Entries":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._entries = iter(())


def listing(function: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """A function that lists, in another order."""

    @functools.wraps(function)
    def shuffled(*arguments: Any, **options: Any) -> list[Any]:
        found = sorted(function(*arguments, **options))
        _random.shuffle(found)
        return found

    return shuffled


def scanning(function: Callable[..., Any]) -> Callable[..., _Entries]:
    """`os.scandir`, in another order."""

    @functools.wraps(function)
    def shuffled(*arguments: Any) -> _Entries:
        with function(*arguments) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        _random.shuffle(found)
        return _Entries(found)

    return shuffled


if __name__ == "sitecustomize":
    os.listdir = listing(os.listdir)
    os.scandir = scanning(os.scandir)  # type: ignore[assignment]
