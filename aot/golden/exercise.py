"""Runs the entries of a bundle on inputs that follow from its index alone: the same on every machine, for ever."""

import zlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from aot.bundle.index import codec
from aot.bundle.index.records import ArgumentRecord, GenerationRecord
from aot.bundle.store import Bundle
from aot.runtime import execute
from aot.runtime.device.client import numpy_dtype
from aot.runtime.execute import Executor, State
from aot.runtime.fitting import entries
from aot.runtime.fitting.entries import Entry
from aot.runtime.generation import GenerationRequest
from aot.runtime.place import Place
from aot.runtime.values import HostArray
from aot.sampling import SamplingParams
from aot.slots import STATE

ExerciseArrays = dict[str, Any]

_UNKNOWN_LIMIT = 2
"""Integers stay below it where nothing is known about them: they may be indices of whatever is not empty."""


def exercise_inputs(entry: Entry) -> ExerciseArrays:
    """Inputs of an entry in its shapes, from their names and sizes; a language model's draw greedily and never end.

    Half of the rows are full, the others half full, and a fork continues the rows of its source in turn.
    """
    wanted = entry.inputs
    record = entry.index.generation
    limit = _UNKNOWN_LIMIT if record is None else record.vocab_size
    special = {} if record is None else _special(entry, record, wanted)
    return {name: special.get(name, exercise_values(name, argument, limit)) for name, argument in wanted.items()}


def exercise_values(name: str, argument: ArgumentRecord, limit: int) -> HostArray:
    """Integers below `limit` and floats in [-1, 1): SplitMix64 (Steele et al. 2014) of the position and the name."""
    bits = np.arange(1, int(np.prod(argument.shape, dtype=np.int64)) + 1, dtype=np.uint64)
    bits = bits * np.uint64(0x9E3779B97F4A7C15) + np.uint64(zlib.crc32(name.encode()))
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    made = numpy_dtype(argument.dtype)
    if made.kind == "b":
        found: HostArray = bits & np.uint64(1)
    elif made.kind in "iu":
        found = bits % np.uint64(min(limit, np.iinfo(made).max + 1))
    else:
        found = (bits >> np.uint64(40)).astype(np.float64) / (1 << 23) - 1
    return found.reshape(argument.shape).astype(made)


def row_lengths(rows: int, width: int) -> HostArray:
    """Tokens of each row: half of them are full, the others half full."""
    return np.array([width if row % 2 == 0 else max(1, width // 2) for row in range(rows)], np.int32)


class Exercise:
    """A bundle loaded to have its entries run, on what they were compiled to and nothing else.

    In a place, by default in that where `aot.load` runs them.
    """

    def __init__(self, bundle: Bundle, place: Place | None = None) -> None:
        self._bundle, self._place = bundle, place or entries.find_place(bundle.index)
        self.entries = entries.entries_of(bundle.index, self._place)
        self._prefills = {e.combo: e for e in self.entries if e.phase == "prefill"}
        self._latest: State | None = None  # of the prefill that ran last, unless it was used up

    def obstacle(self, entry: Entry) -> str:
        """Why an entry, or the prefill that it continues, does not run here as built; empty where it does."""
        source = self._source(entry)
        return next((v.cause for v in map(_verdict, filter(None, (source, entry))) if v.verdict != "ready"), "")

    def factors(self, entry: Entry) -> dict[str, Any]:
        """What of the bundle decides what an entry without an obstacle gives, by digests where there are any."""
        index, source = self._bundle.index, self._source(entry)
        return {
            "entry": _factors(entry),
            "source": None if source is None else _factors(source),
            "weights": [blob.digest for blob in index.weights.blobs],
            "generation": codec.plain(index.generation),
        }

    def in_turn(self, chosen: Iterable[Entry]) -> list[Entry]:
        """Entries in an order in which each prefill runs once: after it forks, which read its state, then decode."""
        places = {_name(entry): place for place, entry in enumerate(self.entries)}
        ranks = {"prefill": 0, "decode": 2}
        return sorted(chosen, key=lambda e: (places[_name(self._source(e) or e)], ranks.get(e.phase, 1)))

    def run(self, entry: Entry) -> tuple[ExerciseArrays, ExerciseArrays]:
        """Outputs by name, state by slot. Decode continues the prefill of its combo, a fork one alike."""
        source = self._source(entry)
        begun = None if source is None else self._begun(source)
        continued = begun if entry.phase == "decode" else None
        if source is None or continued is not None:
            self._latest = None
        made = execute.checked_inputs(entry, exercise_inputs(entry))
        outputs, buffers = self._executor.run(entry, made, continued, self._read(entry, begun))
        if entry.phase == "prefill":
            self._latest = State(entry, buffers, entry.combo.batch_size)
        return outputs, buffers

    def logits(self, entry: Entry, given: list[list[int]]) -> HostArray:
        """Logits [batch, vocab] of a decode entry's rows after its prompts and some more tokens of each."""
        source = self._source(entry)
        assert source is not None, entry.phase
        width, state = source.combo.prefill_length or 1, self._begun(source)
        self._latest = None
        for start in range(0, max(map(len, given)), width):
            made = exercise_inputs(source)
            for row, ids in enumerate(given):
                part = ids[start : start + width]
                made["tokens"][row, : len(part)], made["lengths"][row] = part, len(part)
            state = State(
                source, self._executor.run(source, execute.checked_inputs(source, made), state)[1], len(given)
            )
        return self._executor.client.read(state.peek()[STATE.slot("logits")])

    @cached_property
    def _executor(self) -> Executor:
        return Executor(self._bundle, "strict", self._place)

    def _begun(self, source: Entry) -> State:
        if self._latest is None or self._latest.entry is not source:
            self.run(source)
        assert self._latest is not None, source.phase
        return self._latest

    def _source(self, entry: Entry) -> Entry | None:
        """The prefill of which a language model's entry continues the state. Without one that starts from zeros."""
        if entry.index.generation is None:
            return None
        if entry.phase == "decode":
            return self._prefills.get(entry.combo)
        if (rows := _fork_rows(entry)) is None:
            return None
        alike = (e for c, e in self._prefills.items() if c.batch_size == rows and c.shares_state(entry.combo))
        return next(alike, None)

    def _read(self, entry: Entry, begun: State | None) -> State | None:
        """What an entry takes from another generation: a prefill's state, zeros where there is none."""
        taken = entry.sources
        if not taken or begun is not None:
            return begun if taken else None
        client = self._executor.client
        zeros = {path: client.zeros(argument) for path, argument in taken.items()}
        return State(entry, STATE.slots(zeros), entry.combo.batch_size)


def _special(entry: Entry, record: GenerationRecord, wanted: Mapping[str, ArgumentRecord]) -> ExerciseArrays:
    rows, width = entry.combo.batch_size, entry.combo.prefill_length or 1
    room = wanted["eos"].shape[0] if "eos" in wanted else 0
    made = GenerationRequest(SamplingParams(), (), record.pad_token_id, room).inputs([None] * rows)
    made["stop"] = np.zeros(rows, bool)
    made["lengths"] = row_lengths(rows, width)
    if (source := _fork_rows(entry)) is not None:
        made["rows"] = np.arange(rows, dtype=np.int32) % np.int32(source)
    return made


def _fork_rows(entry: Entry) -> int | None:
    kind, _, rows = entry.phase.partition("/")
    return int(rows) if kind == "fork" and rows.isdecimal() else None


def _factors(entry: Entry) -> dict[str, Any]:
    calls = []
    for program, binding in entry.calls:
        executable = entries.fitting_executable(program)
        assert executable is not None, program.name
        slots = {"takes": binding.takes, "gives": binding.gives}
        calls.append({"program": program.digest, "executable": executable.digest, **slots})
    outputs = sorted(entry.index.phases[entry.phase].outputs)
    return {"phase": entry.phase, "outputs": outputs, "calls": calls}


def _name(entry: Entry) -> tuple[str, str]:
    return entry.combo_key, entry.phase


def _verdict(entry: Entry) -> entries.EntryVerdict:
    return entries.judge_entry(entry)
