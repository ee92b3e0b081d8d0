"""Golden outputs: what the entries of a bundle gave where it was built, to be compared with what they give here."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aot import digest
from aot.bundle.index.records import BindingRecord, ProgramRecord
from aot.bundle.store import Bundle
from aot.errors import BundleError, InputError
from aot.golden import agreement, expected
from aot.golden.exercise import Exercise, ExerciseArrays
from aot.golden.expected import Expected
from aot.runtime.fitting import entries
from aot.runtime.fitting.entries import Entry
from aot.runtime.place import Place
from aot.targets import CpuTarget

TOLERANCES: Mapping[str, float] = {
    "float64": 2.0**-12,
    "float32": 2.0**-12,
    "float16": 2.0**-7,
    "bfloat16": 2.0**-4,
    "uint16": 2.0**-4,  # the bits of a bfloat16: so a KV cache holds it on CPU
    "int8": 2.0**-6,
}
"""How far results may be apart, relative to the greater of 1 and the recorded value, by the coarsest dtype.

Kernels are picked when they run, so the order of sums and where they are rounded differ from CPU to CPU. Roundings
that fall at random add up as the square root of their number: in float32 2^7 for sums of 2^14 terms, times 2^4 for 2^8
kernels in a row, are 2^11 units of 2^-23. The narrow dtypes are rounded between kernels and not within, and a tenth of
a nat would hide what is wrong: 2^3 of their units. Beside int8 weights activations are rounded to 16 bits, and a
difference in the last bit of a norm turns some of them over: with 8 bits 0.28 was measured between two such runs of a
small decoder, of which the 2^-7th part is left, and 2^3 times that is allowed.
"""

EntryName = tuple[str, str]
"""What names an entry: its combo's key and its phase."""
WhenRecorded = Callable[[int, Entry, bytes], None]
"""Called with an entry's position, the entry, and its golden outputs."""


@dataclass(frozen=True)
class Replayed:
    """What became of an entry's golden outputs: reproduced, differs, not run (here), not recorded (at the build)."""

    combo_key: str
    phase: str
    verdict: str
    cause: str
    difference: float | None = None
    """The largest, relative as the tolerance is; None where nothing was compared."""
    tolerance: float | None = None


def golden_factors(bundle: Bundle, place: Place | None = None) -> dict[int, dict[str, Any]]:
    """All of the bundle that decides what an entry gives, by the position of each that this machine runs as built."""
    exercised = Exercise(bundle, place)
    runs = ((i, entry) for i, entry in enumerate(exercised.entries) if not exercised.obstacle(entry))
    return {i: exercised.factors(entry) for i, entry in runs}


def record_golden(
    bundle: Bundle,
    kept: Mapping[int, bytes] | None = None,
    made: WhenRecorded = lambda *_: None,
    place: Place | None = None,
) -> bytes | None:
    """Runs every entry that this machine runs as built, and gives the attachment; None where it runs none.

    Entries that are `kept`, by position, are taken as they are; of each other one `made` is told as soon as it has run.
    Of entries that are made of the same, as text is beside images of any shape, the first stands for all.
    """
    exercised, parts, omitted = Exercise(bundle, place), dict(kept or {}), []
    alike: dict[bytes, list[int]] = {}
    for i, entry in enumerate(exercised.entries):
        if cause := exercised.obstacle(entry):
            omitted.append({"key": entry.combo_key, "phase": entry.phase, "cause": cause})
        elif i not in parts:
            alike.setdefault(digest.canonical_json(exercised.factors(entry)), []).append(i)
    missing = {
        (exercised.entries[i].combo_key, exercised.entries[i].phase): (i, *others) for i, *others in alike.values()
    }
    for entry in exercised.in_turn(exercised.entries[i] for i, *_ in missing.values()):
        positions = missing[entry.combo_key, entry.phase]
        parts |= dict.fromkeys(positions, _recorded(exercised, entry))
        made(positions[0], entry, parts[positions[0]])
    named = ((exercised.entries[i], parts[i]) for i in sorted(parts))
    recorded = [{"key": entry.combo_key, "phase": entry.phase, **json.loads(part)} for entry, part in named]
    document = {"version": expected.GOLDEN_VERSION, "entries": recorded, "not_recorded": omitted}
    return digest.canonical_json(document) if parts else None


def replay_golden(
    bundle: Bundle,
    data: bytes | None = None,
    done: Callable[[Entry], None] = lambda _: None,
    place: Place | None = None,
) -> tuple[Replayed, ...]:
    """Runs what was recorded once more, here. `data` are golden outputs of another bundle with the same entries.

    `done` is told of each entry that has run. Raises InputError for a bundle that has none, BundleError for a document
    that is not as `record_golden` writes it.
    """
    data = bundle.attachment("golden") if data is None else data
    if data is None:
        raise InputError(f"bundle {bundle.path}: has no golden outputs to replay; build it where its executables run")
    recorded, omitted = expected.read_golden(data, f"bundle {bundle.path}: golden outputs")
    exercised = Exercise(bundle, place)
    known = {(entry.combo_key, entry.phase): entry for entry in exercised.entries}
    if unknown := [name for name in recorded if name not in known]:
        combo_key, phase = unknown[0]
        raise BundleError(f"bundle {bundle.path}: golden outputs: no entry {combo_key[:12]}… has the phase {phase!r}")
    found: dict[EntryName, ExerciseArrays] = {}
    made: dict[EntryName, Replayed] = {}
    for entry in exercised.in_turn(known[name] for name in recorded):
        made[entry.combo_key, entry.phase] = _replayed(exercised, entry, recorded, found)
        done(entry)
    return (
        *(made[name] for name in recorded),
        *(Replayed(combo_key, phase, "not recorded", cause) for combo_key, phase, cause in omitted),
    )


def golden_tolerance(entry: Entry) -> float:
    """The tolerance of the coarsest dtype that the entry's programs take or give; 0 where arithmetic is portable."""
    if all(map(_is_portable, entry.calls)):
        return 0.0
    arrays = {a.dtype for program, _ in entry.calls for a in (*program.arguments, *program.results)}
    return max((TOLERANCES[dtype] for dtype in arrays if dtype in TOLERANCES), default=0.0)


def _is_portable(call: tuple[ProgramRecord, BindingRecord]) -> bool:
    """Whether what this machine runs of a program gives the same bits on all."""
    chosen = entries.fitting_executable(call[0])
    target = None if chosen is None else chosen.built_for
    return isinstance(target, CpuTarget) and target.arithmetic == "portable"


def _recorded(exercised: Exercise, entry: Entry) -> bytes:
    """Golden outputs of one entry, as JSON without its name. Raises InputError for those that are not finite."""
    outputs, _ = exercised.run(entry)
    if cause := next(filter(None, (expected.unsound_output(*output) for output in outputs.items())), ""):
        raise InputError(
            f"golden outputs: {entry.phase}, combo {entry.combo_key[:12]}…: {cause}; the model's weights are not "
            "finite, or overflow its dtype: check the checkpoint, or build it with dtype bfloat16 or float32"
        )
    whole = agreement.WHOLE_OUTPUTS if entry.index.generation else ()
    shown = {name: expected.write_output(array, name in whole) for name, array in outputs.items()}
    return digest.canonical_json({"tolerance": golden_tolerance(entry), "outputs": shown})


def _replayed(
    exercised: Exercise,
    entry: Entry,
    recorded: Mapping[EntryName, Expected],
    found: dict[EntryName, ExerciseArrays],
) -> Replayed:
    name = entry.combo_key, entry.phase
    if cause := exercised.obstacle(entry):
        return Replayed(*name, "not run", cause)
    outputs, state = exercised.run(entry)
    found[name] = outputs
    wanted, first = recorded[name], None
    if not wanted.tolerance:  # of portable arithmetic, which may be another than runs here
        wanted = replace(wanted, tolerance=golden_tolerance(entry))
    if entry.phase == "decode":
        before = (entry.combo_key, "prefill")
        first = agreement.first_tokens(recorded.get(before), found.get(before))
    difference, cause = agreement.compare_outputs(exercised, entry, wanted, outputs, state, first)
    return Replayed(*name, "differs" if cause else "reproduced", cause, difference, wanted.tolerance)
