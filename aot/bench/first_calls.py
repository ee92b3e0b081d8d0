"""What the executables of a combo take to load, and at their first call above the second: a cost no counter sees."""

from collections.abc import Callable
from typing import Any

import numpy as np

from aot.bench import bare
from aot.bench.bare import Bare
from aot.bundle.store import Bundle
from aot.golden import exercise
from aot.runtime.fitting.entries import Entry


def measure_first_calls(bundle: Bundle, combo_key: str) -> list[dict[str, Any]]:
    """Seconds of each program of a combo's prefill and decode, freshly loaded: `load`, and its `first` and
    `second` call, a decode's of one step; with its `phase`, its `name` and the number of `calls` of it.
    """
    loaded = Bare(bundle)
    prefill, decode = (bare.find_entry(bundle.index, combo_key, phase) for phase in ("prefill", "decode"))
    inputs = exercise.exercise_inputs(prefill)
    step = exercise.exercise_inputs(decode)
    step["limit"] = np.full_like(step["limit"], 2)  # tokens in all, of which the prefill gave one

    def begun() -> bare.BufferSlots:
        slots = loaded.begin(prefill, inputs)
        loaded.run(prefill, slots)
        return slots

    return [
        *_calls(loaded, prefill, lambda: loaded.begin(prefill, inputs)),
        *_calls(loaded, decode, lambda: loaded.begin(decode, step, begun())),
    ]


def _calls(loaded: Bare, entry: Entry, begin: Callable[[], bare.BufferSlots]) -> list[dict[str, Any]]:
    programs = [program for program, _ in entry.calls]
    distinct = {program.digest: program for program in programs}
    times = {name: {"load": loaded.load(program)} for name, program in distinct.items()}
    for run in ("first", "second"):
        for program, seconds in loaded.run(entry, begin()):
            times[program.digest].setdefault(run, seconds)
    return [
        {"phase": entry.phase, "name": program.name, "calls": programs.count(program), **times[name]}
        for name, program in distinct.items()
    ]
