"""Calls that are split over several executors, each of which has the whole bundle on a device of its own."""

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def shares(items: Sequence[T], parts: int, key: Callable[[T], object]) -> list[list[T]]:
    """Items in at most so many parts of nearly equal size, in their order; those of equal keys stay together."""
    runs: list[list[T]] = []
    for item in items:
        if runs and key(runs[-1][-1]) == key(item):
            runs[-1].append(item)
        else:
            runs.append([item])
    parts = min(parts, len(runs))
    bounds = [len(runs) * part // parts for part in range(parts + 1)]
    return [list(itertools.chain(*runs[low:high])) for low, high in itertools.pairwise(bounds)]


def merged(runs: Sequence[Iterator[T]]) -> Iterator[T]:
    """What some iterators give, as it comes, each of them in a thread of its own; what one raises, this raises."""
    if len(runs) == 1:
        yield from runs[0]
        return
    made: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    ended = threading.Event()

    def run(steps: Iterator[T]) -> None:
        try:
            for step in steps:
                made.put(("step", step))
                if ended.is_set():
                    return
            made.put(("end", None))
        except BaseException as error:
            made.put(("error", error))

    threads = [threading.Thread(target=run, args=(steps,), name="aot-replica") for steps in runs]
    for thread in threads:
        thread.start()
    try:
        left = len(runs)
        while left:
            kind, value = made.get()
            if kind == "error":
                raise value
            if kind == "step":
                yield value
            left -= kind == "end"
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What some calls give, made at the same time."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: call(), calls))
