"""Runs the sequences of one call: groups them into entries, prefills each prompt once, decodes in chunks."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from aot import buckets
from aot.errors import BundleError
from aot.precompile import Combo
from aot.runtime.execute import Executor, Inputs, State
from aot.runtime.fitting.entries import Entry
from aot.runtime.requests import Prepared
from aot.runtime.sequence import RunningSequence
from aot.sampling import SamplingParams

if TYPE_CHECKING:
    from aot.runtime.prompting.encoding import Encoding

RowArrays = dict[str, "np.ndarray[Any, Any]"]
Batch = list[RunningSequence | None]
"""The rows of a call; those without a sequence are padding."""
Pieces = list[tuple[RunningSequence, str]]
"""Text that has become final, with the sequence it belongs to."""

_NEVER = -1  # an id that no token has


@dataclass(frozen=True)
class GenerationRequest:
    """What all sequences of a call share."""

    params: SamplingParams
    eos: tuple[int, ...]
    pad: int
    eos_room: int
    """Ids that the programs have room for."""
    props: Mapping[str, Any] | None = None
    """The `required_props` of the entries to use."""

    def inputs(self, rows: Batch) -> RowArrays:
        """The request inputs of a batch; rows without a sequence are greedy and never end."""
        shape = len(rows)
        drawn = {
            f.name: np.full(shape, f.default, np.int32 if f.name == "top_k" else np.float32)
            for f in fields(SamplingParams)
        }
        made = {
            **drawn,
            "seed": np.zeros((shape, 2), np.uint32),
            "sequence": np.zeros(shape, np.int32),
            "limit": np.full(shape, np.iinfo(np.int32).max, np.int32),
            "eos": np.full(self.eos_room, _NEVER, np.int32),
            "pad": np.asarray(self.pad, np.int32),
        }
        made["eos"][: len(self.eos)] = self.eos
        for row, sequence in enumerate(rows):
            if sequence is not None:
                for name in drawn:
                    made[name][row] = getattr(self.params, name)
                made["seed"][row] = divmod(sequence.seed, 1 << 32)
                made["sequence"][row], made["limit"][row] = sequence.index, sequence.limit
        return made


@dataclass(frozen=True)
class ForkSource:
    """A state left by a prefill, and which of its rows holds which prompt."""

    state: State
    rows: Mapping[int, int]
    """The row of each, by its position in the call."""

    def serves(self, combo: Combo, positions: Iterable[int]) -> bool:
        """Whether rows of `combo` can continue some of these prompts from it."""
        return self.state.entry.combo.shares_state(combo) and not self.rows.keys().isdisjoint(positions)


class GenerationRun:
    """The sequences of one call on the entries of one bundle.

    A prompt is prefilled once for all sequences of it, as long as these go to entries of one cache length: a state
    continues in no other.
    """

    def __init__(
        self,
        executor: Executor,
        entries: Mapping[tuple[Combo, str], Entry],
        table: buckets.Table,
        request: GenerationRequest,
    ) -> None:
        self._executor, self._entries, self._table, self._request = executor, entries, table, request

    def run(self, sequences: list[RunningSequence]) -> Iterator[Pieces]:
        """Runs all to their ends; gives text as it comes, first after each prefill, then after each chunk.

        Raises NoEntryError for a sequence that fits no entry alone, at once: nothing has run then.
        """
        lengths = [len(sequence.ids) for sequence in sequences]
        images = {row for row, sequence in enumerate(sequences) if sequence.prepared.images}
        groups = self._table.partition(lengths, sequences[0].limit, self._request.props, images)
        filled = [_Filled(group.combo, [sequences[row] for row in group.rows]) for group in groups]
        for group in filled:
            for sequence in group.rows:
                sequence.entry = self._entries[group.combo, "decode"].combo_key
        return self._run(filled)

    def _run(self, groups: list["_Filled"]) -> Iterator[Pieces]:
        held: list[ForkSource] = []
        for place, group in enumerate(groups):
            later = groups[place + 1 :]
            sources = yield from self._group(group, held, later)
            held = [s for s in sources if any(s.serves(other.combo, other.prepared) for other in later)]

    def _group(
        self, group: "_Filled", held: list[ForkSource], later: list["_Filled"]
    ) -> Generator[Pieces, None, list[ForkSource]]:
        """Runs the sequences of a group; returns all sources there are then."""
        combo, rows = group.combo, group.rows
        batch: Batch = [*rows, *[None] * (combo.batch_size - len(rows))]
        request = self._executor.put(self._request.inputs(batch))
        state, outputs, sources = self._begin(group, batch, request, held, later)
        entry = self._entries[combo, "decode"]
        pieces = _taken(batch, outputs["token"][:, None], outputs["logprob"][:, None], 1)
        if any(sequence.finish is None for sequence in rows):
            self._executor.prepare(entry)  # not before there is a first token, from which it would take a core
        yield pieces
        while any(sequence.finish is None for sequence in rows):
            stop = np.array([sequence is None or sequence.finish is not None for sequence in batch])
            outputs, buffers = self._executor.run(entry, {**request, "stop": stop}, state)
            if (steps := int(outputs["steps"])) <= 0:  # host and device disagree on which rows are done
                place = f"bundle: entry {combo.key[:12]}…"
                raise BundleError(f"{place} takes no step of decode while rows go on; fetch it again or rebuild")
            state = State(entry, buffers, len(rows))
            yield _taken(batch, outputs["tokens"], outputs["logprobs"], steps)
        return sources

    def _begin(
        self, group: "_Filled", batch: Batch, request: Inputs, held: list[ForkSource], later: list["_Filled"]
    ) -> tuple[State, RowArrays, list[ForkSource]]:
        """State and first tokens of a group: from a prefill alone, or where prompts are shared from forks of one."""
        combo, prepared = group.combo, group.prepared
        ready = {position for source in held if source.serves(combo, prepared) for position in source.rows}
        after = [
            other for other in later if other.combo.shares_state(combo) and other.prepared.keys() & prepared.keys()
        ]
        if len(prepared) == len(group.rows) and not after and not prepared.keys() & ready:
            state, outputs = self._prefill(combo, list(prepared.values()), request)
            return state, outputs, held
        fresh = [position for position in prepared if position not in ready]
        sources = [*held, *self._sources(group, fresh, after)]
        return (*self._fork(combo, batch, request, [s for s in sources if s.serves(combo, prepared)]), sources)

    def _sources(self, group: "_Filled", fresh: list[int], after: list["_Filled"]) -> Iterator[ForkSource]:
        """Prefills prompts into states of as few rows as the narrowest group that continues them, for forks widen."""
        for room in range(1, group.combo.batch_size + 1):
            shared = [p for p in fresh if min(g.combo.batch_size for g in (group, *after) if p in g.prepared) == room]
            if not shared:
                continue
            alike = [c for c in self._table.combos if c.shares_state(group.combo) and c.batch_size <= room]
            lengths = [len(group.prepared[position].ids) for position in shared]
            images = {row for row, position in enumerate(shared) if group.prepared[position].images}
            for part in buckets.Table(alike).partition(lengths, 0, group.combo.required_props, images):
                placed = [shared[row] for row in part.rows]
                inputs = self._request.inputs([None] * part.combo.batch_size)
                state, _ = self._prefill(part.combo, [group.prepared[position] for position in placed], inputs)
                yield ForkSource(state, {position: row for row, position in enumerate(placed)})

    def _prefill(self, combo: Combo, asked: list[Prepared], request: Inputs) -> tuple[State, RowArrays]:
        entry = self._entries[combo, "prefill"]
        tokens = np.full((combo.batch_size, combo.prefill_length or 0), self._request.pad, np.int32)
        lengths = np.zeros(combo.batch_size, np.int32)
        for row, prepared in enumerate(asked):
            tokens[row, : len(prepared.ids)], lengths[row] = prepared.ids, len(prepared.ids)
        seen = self._encoding.inputs(entry, asked) if combo.vision_included else {}
        outputs, buffers = self._executor.run(entry, {"tokens": tokens, "lengths": lengths, **seen, **request})
        return State(entry, buffers, len(asked)), outputs

    @cached_property
    def _encoding(self) -> "Encoding":
        from aot.runtime.prompting.encoding import Encoding  # text alone does without

        return Encoding(self._executor, self._entries, self._table.alike(self._request.props, images=True))

    def _fork(self, combo: Combo, batch: Batch, request: Inputs, sources: list[ForkSource]) -> tuple[State, RowArrays]:
        state: State | None = None
        outputs: RowArrays = {}
        for source in sources:
            entry = self._entries[combo, f"fork/{source.state.entry.combo.batch_size}"]
            rows = np.array([-1 if s is None else source.rows.get(s.position, -1) for s in batch], np.int32)
            outputs, buffers = self._executor.run(entry, {"rows": rows, **request}, state, source.state)
            state = State(entry, buffers, len(batch))
        assert state is not None, combo
        return state, outputs


@dataclass(frozen=True)
class _Filled:
    """Sequences that one call of a combo serves."""

    combo: Combo
    rows: list[RunningSequence]

    @cached_property
    def prepared(self) -> dict[int, Prepared]:
        """Their prompts by position in the call."""
        return {sequence.position: sequence.prepared for sequence in self.rows}


def _taken(batch: Batch, tokens: Any, logprobs: Any, steps: int) -> Pieces:
    live = [(row, s) for row, s in enumerate(batch) if s is not None and s.finish is None]
    return [(s, s.take(tokens[row, :steps], logprobs[row, :steps])) for row, s in live]
