"""Whether outputs agree with golden ones: floats within the tolerance, all else exactly, but for tokens that tie.

NaN agrees with nothing, itself included: a token that is drawn from it says nothing of the model.

Where a language model's best two tokens are closer than rounding, another CPU may draw the other one, and the row then
goes another way. So a row is compared up to the first token that differs, and there this machine's own logits must
give the recorded token as much as its own, within twice the tolerance: once for either token.
"""

from typing import Any

import numpy as np

from aot.golden import expected
from aot.golden.exercise import Exercise, ExerciseArrays
from aot.golden.expected import Expected, Output
from aot.runtime.fitting.entries import Entry
from aot.runtime.values import HostArray
from aot.sampling import restrictions_of
from aot.slots import STATE

WHOLE_OUTPUTS = frozenset({"token", "tokens", "logprob", "logprobs"})
"""Outputs of a language model's phases that are kept whole, so that rows can be followed."""


def first_tokens(recorded: Expected | None, found: ExerciseArrays | None) -> tuple[HostArray, HostArray] | None:
    """The first tokens that a prefill gave, here and where it was recorded; None without either."""
    wanted = None if recorded is None else recorded.outputs.get("token")
    if wanted is None or found is None or (wanted.shape, wanted.positions) != (found["token"].shape, None):
        return None
    return found["token"], wanted.values


def compare_outputs(
    exercised: Exercise,
    entry: Entry,
    wanted: Expected,
    outputs: ExerciseArrays,
    state: ExerciseArrays,
    first: tuple[HostArray, HostArray] | None,
) -> tuple[float | None, str]:
    """The largest relative difference of floats, None without any, and what does not agree, empty where all does.

    `first` are the tokens, found and recorded, that the prefill before a decode gave.
    """
    if cause := _shapes(wanted, outputs, entry.index.generation is not None) or _nan(outputs):
        return None, cause
    comparable, cause = None, ""
    drawn = next((name for name in ("token", "tokens") if name in outputs), None)
    if entry.index.generation is not None and drawn is not None:
        rows = outputs[drawn].shape[0]
        found = outputs[drawn].reshape(rows, -1)
        recorded = wanted.outputs[drawn].values.reshape(rows, -1)
        comparable, parted = _followed(found, recorded, first)
        cause = _tied(exercised, entry, wanted.tolerance, recorded, parted, state, first)
    differences, causes = [], [cause]
    for name, output in wanted.outputs.items():
        if comparable is not None and name == drawn:
            continue
        difference, cause = _output(name, output, outputs[name], comparable, wanted.tolerance)
        differences.append(difference)
        causes.append(cause)
    return max((d for d in differences if d is not None), default=None), next(filter(None, causes), "")


def _shapes(wanted: Expected, outputs: ExerciseArrays, language: bool) -> str:
    recorded = {name: (output.dtype, output.shape) for name, output in wanted.outputs.items()}
    found = {name: (str(array.dtype), array.shape) for name, array in outputs.items()}
    for name in sorted(recorded.keys() | found.keys()):
        if recorded.get(name) != found.get(name):
            return f"output {name}: {_spelled(found.get(name))} here, {_spelled(recorded.get(name))} recorded"
        if language and name in WHOLE_OUTPUTS and wanted.outputs[name].positions is not None:
            return f"output {name}: only a sample was recorded"
    return ""


def _nan(outputs: ExerciseArrays) -> str:
    """The first place at which an output is NaN, be it one that was recorded or not."""
    said = (expected.unsound_output(name, array, finite=False) for name, array in outputs.items())
    return next((f"{cause} here" for cause in said if cause), "")


def _followed(
    found: HostArray, recorded: HostArray, first: tuple[HostArray, HostArray] | None
) -> tuple[HostArray, HostArray]:
    """Which tokens [batch, steps] follow the same ones as those recorded, and at which of these a row parts."""
    differs = found != recorded.astype(found.dtype)
    before = np.zeros((len(found), 1), bool) if first is None else (first[0] != first[1])[:, None]
    gone = np.cumsum(np.concatenate([before, differs], axis=1), axis=1)[:, :-1] > 0
    return ~gone, ~gone & differs


def _tied(
    exercised: Exercise,
    entry: Entry,
    tolerance: float,
    recorded: HostArray,
    parted: HostArray,
    state: ExerciseArrays,
    first: tuple[HostArray, HostArray] | None,
) -> str:
    """What is wrong with the tokens at which rows part: the recorded one is not as good as the best one here."""
    places = [(int(row), int(step)) for row, step in np.argwhere(parted)]
    if not places:
        return ""
    if entry.phase != "decode":
        logits = np.asarray(state[STATE.slot("logits")])
    elif first is None:
        return "tokens differ, and those of the prefill before them were not recorded"
    else:
        given: list[list[int]] = [[] for _ in recorded]
        for row, step in places:
            given[row] = [int(first[1][row]), *map(int, recorded[row, :step])]
        logits = exercised.logits(entry, given)
    logits = _drawable(logits, entry)
    for row, step in places:
        best, token = float(logits[row].max()), int(recorded[row, step])
        gap = best - float(logits[row, token]) if 0 <= token < logits.shape[1] else np.inf
        if not gap <= 2 * tolerance * max(1.0, abs(best)):
            return f"row {row}, token {step}: {token} was recorded, another is better here by {gap:.3g}"
    return ""


def _drawable(logits: HostArray, entry: Entry) -> HostArray:
    """Logits without those of tokens that the entry's programs never draw."""
    assert entry.index.generation is not None, entry.phase
    restrictions = restrictions_of(entry.index.generation.sampling)
    begin = () if entry.phase == "decode" else restrictions.begin_suppress
    made = np.array(logits)
    made[:, [*restrictions.suppress, *begin]] = -np.inf
    return made


def _output(
    name: str, output: Output, array: HostArray, comparable: HostArray | None, tolerance: float
) -> tuple[float | None, str]:
    found, wanted, used = array.reshape(-1), output.values, _used(array.shape, comparable)
    places = np.arange(found.size) if output.positions is None else np.array(output.positions, np.int64)
    found, used = found[places], used[places]
    if wanted.dtype == object:
        wrong = used & (found.astype(object) != wanted)
        return None, _said(name, places, wrong, found, wanted)
    found = found.astype(np.float64)
    same = (found == wanted) | ~used
    if tolerance == 0:  # to the bit
        same &= (np.signbit(found) == np.signbit(wanted)) | ~used
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.where(same, 0.0, np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted)))
    wrong = ~(difference <= tolerance) if tolerance else ~same
    finite = difference[np.isfinite(difference)]
    return float(finite.max(initial=0.0)), _said(name, places, wrong, found, wanted)


def _used(shape: tuple[int, ...], comparable: HostArray | None) -> HostArray:
    """Which values of an array may be compared, flat: those of rows, and of steps where it has them, that are."""
    if comparable is None or shape[:1] != comparable.shape[:1]:
        return np.ones(int(np.prod(shape)), bool)
    steps = comparable if shape[:2] == comparable.shape else comparable[:, -1]
    return np.broadcast_to(steps.reshape(*steps.shape, *(1,) * (len(shape) - steps.ndim)), shape).reshape(-1)


def _said(name: str, places: HostArray, wrong: HostArray, found: HostArray, wanted: HostArray) -> str:
    if not wrong.any():
        return ""
    at = int(np.argmax(wrong))
    return f"output {name}: {found[at]!s} at {int(places[at])} here, {wanted[at]!s} recorded ({int(wrong.sum())} such)"


def _spelled(form: Any) -> str:
    return "nothing" if form is None else f"{form[0]} {list(form[1])}"
