"""Calls that are split over several executors, each of which has the whole bundle on a device of its own."""

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from aot.runtime.fitting.entries import Entry
from aot.slots import STATE

_ROWS = "batch_size"
T = TypeVar("T")


def split_evenly(items: Sequence[T], parts: int, group_of: Callable[[T], object]) -> list[list[T]]:
    """Items in at most so many parts of nearly equal size, in their order; those of one group stay together."""
    runs: list[list[T]] = []
    for item in items:
        if runs and group_of(runs[-1][-1]) == group_of(item):
            runs[-1].append(item)
        else:
            runs.append([item])
    parts = min(parts, len(runs))
    bounds = [len(runs) * part // parts for part in range(parts + 1)]
    return [list(itertools.chain(*runs[low:high])) for low, high in itertools.pairwise(bounds)]


def merge_runs(runs: Sequence[Iterator[T]]) -> Iterator[T]:
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


def call_together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What some calls give, made at the same time."""
    if len(calls) == 1:
        return [calls[0]()]
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def split_rows(entry: Entry, inputs: Mapping[str, Any], parts: int) -> list[dict[str, Any]]:
    """The inputs of a phase split by rows into at most so many parts.

    One part where the phase carries state, gives something that is not by rows, or the inputs are not as it takes them.
    """
    phase = entry.index.phases[entry.phase]
    split = {name: axes.index(_ROWS) for name, axes in phase.inputs.items() if _ROWS in axes and name in inputs}
    whole = [dict(inputs)]
    stateful = any(STATE.holds(slot) for _, binding in entry.calls for slot in (*binding.takes, *binding.gives))
    if parts == 1 or stateful or not all(_ROWS in axes for axes in phase.outputs.values()):
        return whole
    try:
        arrays = {name: np.asarray(inputs[name]) for name in split}
        (count,) = {arrays[name].shape[axis] for name, axis in split.items()}
    except (ValueError, TypeError, OverflowError, IndexError):  # which the call itself will explain
        return whole
    if count == 0:
        return whole
    pieces = {name: np.array_split(array, min(parts, count), split[name]) for name, array in arrays.items()}
    return [{**inputs, **{n: piece[part] for n, piece in pieces.items()}} for part in range(min(parts, count))]


def join_rows(entry: Entry, outputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The outputs of a phase whose inputs were split by rows."""
    axes = entry.index.phases[entry.phase].outputs
    return {name: np.concatenate([part[name] for part in outputs], axes[name].index(_ROWS)) for name in outputs[0]}
