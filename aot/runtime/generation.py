"""Runs the sequences of one call: groups them into entries, prefills each prompt once, decodes in chunks."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from aot import buckets
from aot.precompile import Combo
from aot.runtime.entries import Entry
from aot.runtime.execute import Executor, State
from aot.runtime.sequence import Sequence
from aot.sampling import SamplingParams

Arrays = dict[str, "np.ndarray[Any, Any]"]
Pieces = list[tuple[Sequence, str]]
"""Text that has become final, with the sequence it belongs to."""

_NEVER = -1  # an id that no token has


@dataclass(frozen=True)
class Request:
    """What all sequences of a call share."""

    params: SamplingParams
    eos: tuple[int, ...]
    pad: int
    eos_room: int
    """Ids that the programs have room for."""
    props: Mapping[str, Any] | None = None
    """The `required_props` of the entries to use."""

    def inputs(self, rows: list[Sequence | None]) -> Arrays:
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
class Source:
    """A state left by a prefill, and which of its rows holds which prompt."""

    state: State
    rows: Mapping[int, int]


class Generation:
    """The sequences of one call on the entries of one bundle."""

    def __init__(
        self, executor: Executor, entries: Mapping[tuple[Combo, str], Entry], combos: list[Combo], request: Request
    ) -> None:
        self._executor, self._entries, self._combos, self._request = executor, entries, combos, request

    def run(self, sequences: list[Sequence]) -> Iterator[Pieces]:
        """Runs all to their ends; gives text as it comes, first after each prefill, then after each chunk.

        Raises NoEntryError for a sequence that fits no entry alone, before anything runs.
        """
        groups = buckets.partition(
            [len(s.ids) for s in sequences], sequences[0].limit, self._combos, self._request.props
        )
        held: list[Source] = []
        for place, group in enumerate(groups):
            rows = [sequences[row] for row in group.rows]
            later = {sequences[row].prompt for other in groups[place + 1 :] for row in other.rows}
            for sequence in rows:
                sequence.entry = self._entries[group.combo, "decode"].key
            held = yield from self._group(group.combo, rows, held, later)

    def _group(
        self, combo: Combo, rows: list[Sequence], held: list[Source], later: set[int]
    ) -> Generator[Pieces, None, list[Source]]:
        """Runs the sequences of a group; returns the sources that later groups continue."""
        batch: list[Sequence | None] = [*rows, *[None] * (combo.batch_size - len(rows))]
        held = [source for source in held if _alike(source.state.entry.combo, combo)]
        state, outputs, sources = self._begin(combo, batch, held, later)
        yield _taken(batch, outputs["token"][:, None], outputs["logprob"][:, None], 1)
        entry, request = self._entries[combo, "decode"], self._request.inputs(batch)
        while any(sequence.finish is None for sequence in rows):
            stop = np.array([sequence is None or sequence.finish is not None for sequence in batch])
            outputs, buffers = self._executor.run(entry, {**request, "stop": stop}, state)
            state = State(entry, buffers, len(rows))
            yield _taken(batch, outputs["tokens"], outputs["logprobs"], int(outputs["steps"]))
        return [source for source in sources if later & source.rows.keys()]

    def _begin(
        self, combo: Combo, batch: list[Sequence | None], held: list[Source], later: set[int]
    ) -> tuple[State, Arrays, list[Source]]:
        """State and first tokens of a group: from a prefill alone, or where prompts are shared from forks of one."""
        prompts = {sequence.prompt: sequence.ids for sequence in batch if sequence is not None}
        ready = {prompt for source in held for prompt in source.rows}
        alone = len(prompts) == sum(sequence is not None for sequence in batch)
        if alone and not prompts.keys() & (ready | later):
            state, outputs = self._prefill(combo, list(prompts.values()), self._request.inputs(batch))
            return state, outputs, []
        fresh = {prompt: ids for prompt, ids in prompts.items() if prompt not in ready}
        sources = held
        if fresh:
            chosen = self._source(combo, [len(ids) for ids in fresh.values()])
            inputs = self._request.inputs([None] * chosen.batch_size)
            state, _ = self._prefill(chosen, list(fresh.values()), inputs)
            sources = [*held, Source(state, {prompt: row for row, prompt in enumerate(fresh)})]
        return (*self._fork(combo, batch, sources), sources)

    def _source(self, combo: Combo, lengths: list[int]) -> Combo:
        """The least padded prefill that `combo` has a fork from."""
        alike = [c for c in self._combos if _alike(c, combo) and (combo, f"fork/{c.batch_size}") in self._entries]
        chosen = buckets.choose(buckets.Need(len(lengths), max(lengths), props=combo.required_props), alike)
        assert chosen is not None, (combo, lengths)  # the combo itself is one of them
        return chosen

    def _prefill(self, combo: Combo, prompts: list[list[int]], request: Arrays) -> tuple[State, Arrays]:
        entry = self._entries[combo, "prefill"]
        tokens = np.full((combo.batch_size, combo.prefill_length or 0), self._request.pad, np.int32)
        lengths = np.zeros(combo.batch_size, np.int32)
        for row, ids in enumerate(prompts):
            tokens[row, : len(ids)], lengths[row] = ids, len(ids)
        outputs, buffers = self._executor.run(entry, {"tokens": tokens, "lengths": lengths, **request})
        return State(entry, buffers, len(prompts)), outputs

    def _fork(self, combo: Combo, batch: list[Sequence | None], sources: list[Source]) -> tuple[State, Arrays]:
        state: State | None = None
        outputs: Arrays = {}
        request = self._request.inputs(batch)
        for source in sources:
            entry = self._entries[combo, f"fork/{source.state.entry.combo.batch_size}"]
            rows = np.array([-1 if s is None else source.rows.get(s.prompt, -1) for s in batch], np.int32)
            outputs, buffers = self._executor.run(entry, {"rows": rows, **request}, state, source.state)
            state = State(entry, buffers, len(batch))
        assert state is not None, combo
        return state, outputs


def _taken(batch: list[Sequence | None], tokens: Any, logprobs: Any, steps: int) -> Pieces:
    live = [(row, s) for row, s in enumerate(batch) if s is not None and s.finish is None]
    return [(s, s.take(tokens[row, :steps], logprobs[row, :steps])) for row, s in live]


def _alike(a: Combo, b: Combo) -> bool:
    """Whether the state of one fits the programs of the other, but for the number of rows."""
    return (a.max_length, a.required_props) == (b.max_length, b.required_props)
