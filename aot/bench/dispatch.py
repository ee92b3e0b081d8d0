"""What a call through the runtime takes above the executables themselves.

Above them: choosing the entry, padding and putting the inputs, binding arguments to slots, reading the outputs. Of
decode calls in which every row has ended, so that the executable has next to nothing to do.
"""

import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np

from aot import sampling
from aot.bench import bare
from aot.bench.bare import Bare
from aot.golden import exercise
from aot.runtime.execute import Executor, State
from aot.runtime.fitting import entries
from aot.runtime.fitting.entries import Entry
from aot.runtime.model import Model

_TURNS, _CALLS = 10, 30
_FIRST = 5  # calls of a turn that are left out: they find the caches as another way left them
_LARGEST = 1 << 31


def measure_dispatch(model: Model, combo_key: str, request: Callable[[], object]) -> dict[str, float]:
    """Medians in seconds, taken in turns: `bare`, the executable alone; above it, `step`, a chunk of generate, `call`,
    one of `Model.call`, and `new`, one with values that no call before had; and `request`, what is given to begin a
    request: it is checked and its entry chosen.
    """
    pair = [bare.find_entry(model.bundle.index, combo_key, phase) for phase in ("prefill", "decode")]
    ways = {
        "bare": _bare(model, *pair),
        "step": _timed(_step(model, *pair)),
        "call": _call(model, *pair, new=False),
        "new": _call(model, *pair, new=True),
        "request": _timed(request),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_TURNS):
        for name, way in ways.items():
            times[name] += [way() for _ in range(_CALLS)][_FIRST:]
    medians = {name: statistics.median(found) for name, found in times.items()}
    return {name: median - medians["bare"] * (name in ("step", "call", "new")) for name, median in medians.items()}


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        before = time.perf_counter()
        call()
        return time.perf_counter() - before

    return seconds


def _bare(model: Model, prefill: Entry, decode: Entry) -> Callable[[], float]:
    loaded, inputs = Bare(model.bundle), exercise.exercise_inputs(prefill)
    slots = loaded.begin(prefill, inputs)
    loaded.run(prefill, slots)
    slots = loaded.begin(decode, _ended(decode), slots)
    return lambda: sum(timing.seconds for timing in loaded.run(decode, slots))


def _step(model: Model, prefill: Entry, decode: Entry) -> Callable[[], object]:
    """A step as `generation` takes it: what the request says is put once, who has ended at each step."""
    executor, inputs = Executor(model.bundle, "strict", entries.find_place(model.bundle.index)), _ended(decode)
    held = executor.run(prefill, exercise.exercise_inputs(prefill))[1]
    stop = inputs.pop("stop")
    request = executor.put(inputs)

    def step() -> None:
        nonlocal held
        state = State(decode, held, decode.combo.batch_size)
        held = executor.run(decode, {**request, "stop": stop}, state)[1]

    return step


def _call(model: Model, prefill: Entry, decode: Entry, *, new: bool) -> Callable[[], float]:
    numbers = itertools.count()
    inputs = _ended(decode)
    given = model.call("prefill", **exercise.exercise_inputs(prefill))

    def call() -> float:
        nonlocal given
        made = {**inputs, **_unlike(decode, next(numbers))} if new else inputs
        before = time.perf_counter()
        given = model.call("decode", state=given.state, **made)
        return time.perf_counter() - before

    return call


def _unlike(decode: Entry, number: int) -> exercise.ExerciseArrays:
    """Inputs for which no other number gives the same values; but who has ended stays so."""
    made = {name: exercise.exercise_values(f"{number} {name}", a, _LARGEST) for name, a in decode.inputs.items()}
    del made["stop"]
    return {name: np.abs(array) if name in sampling.SAMPLING_FIELDS else array for name, array in made.items()}


def _ended(decode: Entry) -> exercise.ExerciseArrays:
    return {**exercise.exercise_inputs(decode), "stop": np.ones(decode.combo.batch_size, bool)}
