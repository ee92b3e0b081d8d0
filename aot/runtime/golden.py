"""Golden outputs: what the entries of a bundle gave where it was built, to be compared with what they give here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aot import digest
from aot.bundle.store import Bundle
from aot.errors import BundleError, InputError
from aot.runtime import agreement, expected
from aot.runtime.entries import Entry
from aot.runtime.exercise import Arrays, Exercise
from aot.runtime.expected import Expected

TOLERANCES: Mapping[str, float] = {
    "float64": 2.0**-12,
    "float32": 2.0**-12,
    "float16": 2.0**-7,
    "bfloat16": 2.0**-4,
    "int8": 2.0**-1,
}
"""How far results may be apart, relative to the greater of 1 and the recorded value, by the coarsest dtype.

Kernels are picked when they run, so the order of sums and where they are rounded differ from CPU to CPU. Roundings
that fall at random add up as the square root of their number: in float32 2^7 for sums of 2^14 terms, times 2^4 for 2^8
kernels in a row, are 2^11 units of 2^-23. The narrow dtypes are rounded between kernels and not within, and a tenth of
a nat would hide what is wrong: 2^3 of their units. Where activations are rounded to int8, a difference in the last bit
of a norm turns some of them over: 0.28 was measured between two such runs of a small decoder, 0.025 in the mean.
"""


@dataclass(frozen=True)
class Replayed:
    """What became of an entry's golden outputs: reproduced, differs, not run (here), not recorded (at the build)."""

    key: str
    phase: str
    verdict: str
    cause: str
    difference: float | None = None
    """The largest, relative as the tolerance is; None where nothing was compared."""
    tolerance: float | None = None


def record(bundle: Bundle, progress: Callable[[str], None] = lambda _: None) -> bytes | None:
    """Runs every entry that this machine runs as built, and gives the attachment; None where it runs none."""
    exercised = Exercise(bundle)
    made, omitted = [], []
    for entry in exercised.entries:
        if cause := exercised.obstacle(entry):
            omitted.append({"key": entry.key, "phase": entry.phase, "cause": cause})
            continue
        progress(f"{entry.phase}, combo {entry.key[:12]}")
        outputs, _ = exercised.run(entry)
        whole = agreement.DRAWN if entry.index.generation else ()
        shown = {name: expected.write(array, name in whole) for name, array in outputs.items()}
        made.append({"key": entry.key, "phase": entry.phase, "tolerance": tolerance(entry), "outputs": shown})
    document = {"version": expected.VERSION, "entries": made, "not_recorded": omitted}
    return digest.canonical_json(document) if made else None


def replay(bundle: Bundle, data: bytes | None = None) -> tuple[Replayed, ...]:
    """Runs what was recorded once more, here. `data` are golden outputs of another bundle with the same entries.

    Raises InputError for a bundle that has none, BundleError for a document that is not as `record` writes it.
    """
    data = bundle.attachment("golden") if data is None else data
    if data is None:
        raise InputError(f"bundle {bundle.path}: has no golden outputs to replay; build it where its executables run")
    recorded, omitted = expected.read(data, f"bundle {bundle.path}: golden outputs")
    exercised = Exercise(bundle)
    known = {(entry.key, entry.phase): entry for entry in exercised.entries}
    if unknown := [name for name in recorded if name not in known]:
        key, phase = unknown[0]
        raise BundleError(f"bundle {bundle.path}: golden outputs: no entry {key[:12]}… has the phase {phase!r}")
    found: dict[tuple[str, str], Arrays] = {}
    made = [_replayed(exercised, known[name], recorded, found) for name in recorded]
    return (*made, *(Replayed(key, phase, "not recorded", cause) for key, phase, cause in omitted))


def tolerance(entry: Entry) -> float:
    """Of the coarsest dtype among all that the entry's programs take and give."""
    arrays = {a.dtype for program, _ in entry.calls for a in (*program.arguments, *program.results)}
    return max((TOLERANCES[dtype] for dtype in arrays if dtype in TOLERANCES), default=0.0)


def _replayed(
    exercised: Exercise,
    entry: Entry,
    recorded: Mapping[tuple[str, str], Expected],
    found: dict[tuple[str, str], Arrays],
) -> Replayed:
    name = entry.key, entry.phase
    if cause := exercised.obstacle(entry):
        return Replayed(*name, "not run", cause)
    outputs, state = exercised.run(entry)
    found[name] = outputs
    wanted, first = recorded[name], None
    if entry.phase == "decode":
        before = (entry.key, "prefill")
        first = agreement.first(recorded.get(before), found.get(before))
    difference, cause = agreement.compare(exercised, entry, wanted, outputs, state, first)
    return Replayed(*name, "differs" if cause else "reproduced", cause, difference, wanted.tolerance)
