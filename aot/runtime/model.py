"""A loaded bundle: what `aot.load` gives."""

import os
import random
import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, Unpack, overload

import numpy as np
import numpy.typing as npt

from aot import buckets, digest, vision
from aot.bundle.index.records import GenerationRecord
from aot.bundle.store import Bundle
from aot.errors import InputError
from aot.runtime import call, padding, replicas, requests
from aot.runtime.device import client
from aot.runtime.execute import Executor, Inputs, State
from aot.runtime.fitting import entries
from aot.runtime.fitting.entries import Entry
from aot.runtime.generation import GenerationRequest, GenerationRun, Pieces
from aot.runtime.options import GenerateOptions, RequestOptions, Several
from aot.runtime.prompting.prompts import Reader
from aot.runtime.requests import Prepared, Prompt
from aot.runtime.sequence import Result, RunningSequence
from aot.runtime.verification import Verification
from aot.sampling import SamplingParams

if TYPE_CHECKING:
    from aot.runtime.peers.processes import Group
    from aot.runtime.prompting.recipe import Recipe
    from aot.runtime.prompting.text import TextTokenizer

P = TypeVar("P", bound=Prompt)  # a list[str] is no list[Prompt]


class Model:
    """A bundle ready to serve. A context manager; may be called from several threads."""

    def __init__(
        self,
        bundle: Bundle,
        found: tuple[Entry, ...],
        executors: tuple[Executor, ...],
        verification: Verification,
        group: "Group | None" = None,
    ) -> None:
        self._bundle, self._verification, self._group = bundle, verification, group
        self._executors = executors  # none once it is closed
        self._entries = {(entry.combo, entry.phase): entry for entry in found}
        names = dict.fromkeys(entry.phase for entry in found)
        self._phases = {name: call.Candidates(e for e in found if e.phase == name) for name in names}
        self._greedy: dict[int, Inputs] = {}
        self._settled = False
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"Model({str(self._bundle.path)!r}, {', '.join(self._phases)}{'' if self._executors else ', closed'})"

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise InputError(
            f"bundle {self._bundle.path}: a loaded model cannot be copied or pickled; load its path where it is needed"
        )

    def close(self) -> None:
        """Lets go of weights and executables; calls afterwards are InputErrors."""
        if os.getpid() != self._process:  # in a child of a fork they are its parent's
            return
        self._greedy.clear()
        for executables in [executor.executables for executor in self._executors]:
            executables.close()
        if self._executors and self._group is not None:
            self._group.close()
        self._executors = ()
        self._verification.close()
        client.free_unused_arrays()

    @property
    def bundle(self) -> Bundle:
        """The opened bundle: its path, index and digest."""
        return self._bundle

    @overload
    def generate(
        self, prompts: Prompt, *, n: Literal[1] | None = None, **options: Unpack[GenerateOptions]
    ) -> Result: ...
    @overload
    def generate(self, prompts: Prompt, *, n: Several, **options: Unpack[GenerateOptions]) -> list[Result]: ...
    @overload
    def generate(self, prompts: Prompt, *, n: int, **options: Unpack[GenerateOptions]) -> Result | list[Result]: ...
    @overload
    def generate(
        self, prompts: list[Prompt] | tuple[Prompt, ...], *, n: int | None = None, **options: Unpack[GenerateOptions]
    ) -> list[Result]: ...
    @overload
    def generate(
        self, prompts: list[P], *, n: int | None = None, **options: Unpack[GenerateOptions]
    ) -> list[Result]: ...
    def generate(self, prompts: Any, **options: Any) -> Result | list[Result]:
        """A Result for a single prompt, a list of Results for a list, in its order.

        With several sequences for a prompt they stand side by side, in a list even for a single prompt. A bundle may
        give several where the call does not say `n`, which a type checker cannot know. Options are those of
        `aot.runtime.options.RequestOptions` and of `SamplingParams`. Raises InputError, NoEntryError.
        """
        run = self.start(prompts, RequestOptions.of(options))
        for _ in run:
            pass
        return run.results[0] if run.single and len(run.results) == 1 else run.results

    def stream(self, prompt: Prompt, *, n: Literal[1] | None = None, **options: Unpack[GenerateOptions]) -> "Run":
        """An iterator over the pieces of the text of one sequence, as they become final; `results` holds at its end."""
        run = self.start(prompt, RequestOptions.of({"n": n, **options}), streamed=True)
        if len(run.sequences) != 1:
            raise InputError(f"request: stream takes one prompt and one sequence, got {len(run.sequences)}")
        if self._text() is None:
            raise InputError("stream: this bundle has no tokenizer; use generate and read token_ids")
        return run

    def call(
        self, phase: str, *, state: State | None = None, source: State | None = None, **inputs: npt.ArrayLike
    ) -> call.Outputs:
        """Runs one phase: pads inputs along their bucketed axes, cuts the outputs back.

        `state` is what an earlier call's outputs carry as `state`, to be continued; `source` one that a fork reads.
        Inputs that say how a language model draws tokens default to greedy ones. Tokens that `aot.pad` has padded come
        with their `mask`, or lengths. Raises InputError, NoEntryError.
        """
        if phase not in self._phases:
            known = ", ".join(sorted(self._phases))
            raise InputError(f"call: unknown phase {phase!r}; this bundle has {known}")
        self._refuse()
        candidates, executors = self._phases[phase], self._running
        with self._preparing():
            given = dict(padding.pads_behind(inputs, phase, self._bundle.index.phases[phase].inputs))
            parts = replicas.split_rows(candidates.first, given, len(executors)) if state is source is None else [given]
        calls = [
            partial(call.run_phase, executor, candidates, part, state, source, self._defaults)
            for executor, part in zip(executors, parts, strict=False)
        ]
        if self._group is None:
            outputs = replicas.call_together(calls)
        else:
            outputs = self._group.turn(
                lambda _: replicas.call_together(calls), {"call": phase}, f"of a call of {phase}"
            )
        self._settle()
        return outputs[0] if len(outputs) == 1 else call.Outputs(replicas.join_rows(candidates.first, outputs), None)

    def start(self, prompts: Prompt | list[Prompt], options: RequestOptions, *, streamed: bool = False) -> "Run":
        """A call that has been checked and runs as it is iterated over; `streamed` for text as it becomes final."""
        record = self._bundle.index.generation
        if record is None:
            raise InputError("generate: this bundle holds no language model; use call")
        given, single = requests.list_prompts(prompts)
        if options.template and not any(map(requests.is_conversation, given)):
            raise InputError("request: template is for conversations, and no prompt is one; leave it out")
        limit = options.max_new_tokens or record.max_new_tokens
        eos = tuple(record.eos_token_id if options.eos_token_id is None else options.ends)
        request = GenerationRequest(options.params(record), eos, record.pad_token_id, _eos_room(record), options.props)
        if len(eos) > request.eos_room:
            raise InputError(f"request: {len(eos)} eos_token_id, this bundle has room for {request.eos_room}")
        beside, reader = options.beside(len(given), single), self._reader(options)
        sequences: list[RunningSequence] = []
        with self._preparing():
            asked = [reader.read(each, place, beside[place]) for place, each in enumerate(given)]
        stops = options.stops(record)
        seeds = options.seeds(len(given), self._random(asked, options))
        for position, (prepared, seed) in enumerate(zip(asked, seeds, strict=True)):
            if options.truncate:
                prepared = prepared.last(max(1, self._combos.longest(limit, options.props)), position)
            length = len(prepared.ids)
            need = buckets.Need(1, length, length + limit, options.props, bool(prepared.images))
            each = options.n or self._sequences_each(need)
            requests.check_sequences(len(sequences) + each, len(given))
            for index in range(each):
                sequences.append(
                    RunningSequence(position, index, prepared, seed, limit, frozenset(eos), self._text, stops, streamed)
                )
        parts = replicas.split_evenly(sequences, len(self._running), lambda sequence: sequence.position)
        runs = [
            GenerationRun(executor, self._entries, self._combos, request).run(part)
            for executor, part in zip(self._running, parts, strict=False)
        ]
        steps: Iterator[Pieces] = replicas.merge_runs(runs)
        if self._group is not None:
            from aot.runtime.peers.lockstep import Lockstep

            steps = Lockstep(steps, self._group)
        return Run(given, single, sequences, self._verified(steps))

    def _reader(self, options: RequestOptions) -> Reader:
        """What makes requests with such options of prompts."""
        record = self._bundle.index.generation
        assert record is not None
        shapes = (vision.image_shape(combo) for combo in self._combos.alike(options.props, images=True))
        sizes = tuple(dict.fromkeys(shape for shape in shapes if shape is not None))
        return Reader(self._text, record.vocab_size, self._recipe, sizes, options.template)

    @cached_property
    def _recipe(self) -> "Recipe | None":
        if (images := self._bundle.index.images) is None:
            return None
        from aot.runtime.prompting.recipe import Recipe

        return Recipe(images, f"bundle {self._bundle.path}")

    def _random(self, asked: list[Prepared], options: RequestOptions) -> Callable[[int], int]:
        """What draws seeds: the same in all processes, once they agree on what is asked for."""
        if self._group is None:
            return secrets.randbits
        with self._preparing():
            seen = [
                (prepared.ids, [digest.digest_of(image.pixels.tobytes()) for image in prepared.images])
                for prepared in asked
            ]
            request = digest.digest_of(repr((seen, options)).encode())
        return random.Random(self._group.agree(request=request)).getrandbits

    def _preparing(self) -> AbstractContextManager[None]:
        return nullcontext() if self._group is None else self._group.preparing()

    def _verified(self, steps: Iterator[Pieces]) -> Generator[Pieces]:
        """The steps, as long as nothing speaks against the weights; checking them begins after the first."""
        self._refuse()
        for pieces in steps:
            self._verification.begin()
            yield pieces
            self._refuse()
        self._settle()

    def _refuse(self) -> None:
        """Raises what speaks against running anything."""
        if os.getpid() != self._process:
            raise InputError(
                f"bundle {self._bundle.path}: loaded before this process was forked, and the threads that run it are "
                "its parent's; load it after the fork"
            )
        self._verification.refuse()

    def _settle(self) -> None:
        """Ends a call: no result is whole before the weights are. What it did not need is then loaded ahead."""
        self._verification.settle()
        if self._executors and not self._settled:
            self._settled = True
            for executor in self._executors:
                executor.executables.rest(entries.programs_of(self._entries.values()))

    @property
    def _running(self) -> tuple[Executor, ...]:
        self._refuse()
        if not self._executors:
            raise InputError(f"bundle {self._bundle.path}: the model was closed; load it again")
        return self._executors

    @cached_property
    def _combos(self) -> buckets.Table:
        return buckets.Table([combo for combo, phase in self._entries if phase == "decode"])

    def _text(self) -> "TextTokenizer | None":
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> "TextTokenizer | None":
        if "tokenizer.json" not in self._bundle.index.tokenizer:
            return None
        from aot.runtime.prompting.text import TextTokenizer

        index = self._bundle.index
        files = {n: self._bundle.read(b.digest, b.bytes) for n, b in index.tokenizer.items()}
        reserved = () if index.images is None else (index.images.token,)
        ends = () if index.generation is None else index.generation.eos_token_id
        return TextTokenizer.from_files(files, f"bundle {self._bundle.path}", reserved, ends)

    def _sequences_each(self, need: buckets.Need) -> int:
        """The default number of sequences; given by key, it is that of the entry which serves the prompt alone."""
        record = self._bundle.index.generation
        assert record is not None
        if isinstance(record.num_return_sequences, int):
            return record.num_return_sequences
        combo = self._combos.choose(need)
        return 1 if combo is None else record.num_return_sequences.get(combo.key, 1)

    def _defaults(self, entry: Entry) -> Inputs:
        """What the phases of a language model take where the caller gives nothing: greedy, no end, and no images."""
        record, rows = self._bundle.index.generation, entry.combo.batch_size
        if record is None:
            return {}
        if rows not in self._greedy:
            request = GenerationRequest(SamplingParams(), (), record.pad_token_id, _eos_room(record))
            self._greedy[rows] = self._running[0].put({**request.inputs([None] * rows), "stop": np.zeros(rows, bool)})
        if "embeddings" not in entry.inputs:
            return self._greedy[rows]
        return {**self._greedy[rows], "embeddings": self._running[0].blank(entry.inputs["embeddings"])}


class Run(Iterator[str]):
    """A call under way: iterate to run it, over pieces of text, or over `steps`. `results` holds once it has run.

    A context manager: one that is left early ends there, in all processes that share it.
    """

    def __init__(
        self, prompts: list[Prompt], single: bool, sequences: list[RunningSequence], steps: Generator[Pieces]
    ) -> None:
        self.single = single
        self.sequences = sequences
        self.steps = self._counted(steps)
        """A prefill or a chunk of decode steps at a time."""
        self._prompts = prompts
        self._has_ended = False

    def __next__(self) -> str:
        for pieces in self.steps:
            if text := "".join(piece for _, piece in pieces):
                return text
        raise StopIteration

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the call where it is; nothing where it has run."""
        self.steps.close()

    @property
    def results(self) -> list[Result]:
        """A Result for each sequence, in the order of the prompts. Raises InputError before the end of the run."""
        if not self._has_ended:
            raise InputError("results: the run has not come to its end; iterate over all of it first")
        return [sequence.result(self._prompts[sequence.position]) for sequence in self.sequences]

    def _counted(self, steps: Iterator[Pieces]) -> Generator[Pieces]:
        yield from steps
        self._has_ended = True


def _eos_room(record: GenerationRecord) -> int:
    """Ids that end a sequence for which the programs have room: as many as the manifest gave, or one."""
    return max(1, len(record.eos_token_id))
