"""A loaded bundle: what `aot.load` gives."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from aot import buckets
from aot.bundle import store
from aot.bundle.records import GenerationRecord
from aot.bundle.store import Bundle
from aot.errors import InputError, MachineError
from aot.precompile import Combo
from aot.runtime import call, entries, expiry, requests
from aot.runtime.client import Client
from aot.runtime.execute import Executor, State
from aot.runtime.generation import Generation, Pieces, Request
from aot.runtime.requests import Options, Prompt
from aot.runtime.sequence import Result, Sequence
from aot.runtime.text import Text
from aot.sampling import SamplingParams

POLICIES = ("strict", "compile")
VERIFY = ("always", "never")


def load(path: str | Path, *, policy: str = "strict", verify: str = "always", key: str | Path | None = None) -> "Model":
    """Opens a bundle and places its weights.

    With policy `strict` nothing is ever compiled: a program without an executable for this machine is a MachineError
    when it is needed, or at once where that is so for every entry. `compile` compiles it then, and logs that it does.
    `verify` says whether weights are checked against their digests; the index, programs and executables always are.
    Of an expired bundle it is logged that it is; what fits this machine runs on, and a program that would have to be
    compiled is an ExpiredError then. `key` names a public key: a bundle not signed with its private one is refused
    before its index is parsed.
    Raises InputError, BundleError or MachineError.
    """
    for name, value, allowed in (("policy", policy, POLICIES), ("verify", verify, VERIFY)):
        if value not in allowed:
            raise InputError(f"load: {name} must be one of {', '.join(allowed)}, got {value!r}")
    bundle = store.open(Path(path), None if key is None else _signed_with(Path(key)))
    expiry.warn(bundle)
    _check_machine(bundle, policy)
    if verify == "always":
        for blob in bundle.index.weights.blobs:
            bundle.check(blob.digest)
    return Model(bundle, Client(), policy)


def _check_machine(bundle: Bundle, policy: str) -> None:
    """Refuses a bundle of which this machine can run nothing, before its weights are read."""
    usable = ("ready",) if policy == "strict" else ("ready", "compiles")
    first = None
    for entry in entries.of(bundle.index, entries.PLATFORM):
        found = entries.verdict(entry, entries.PLATFORM)
        if found.verdict in usable:
            return
        first = first or found
    if first is not None:
        if first.verdict == "compiles":
            expiry.check(bundle, first.cause)
        hint = ", or load with policy='compile'" if first.verdict == "compiles" else ""
        place = f"bundle {bundle.path}: no executable for this machine"
        raise MachineError(f"{place}: {first.cause}; rebuild for this target{hint}")


class Model:
    """A bundle ready to serve. A context manager; may be called from several threads."""

    def __init__(self, bundle: Bundle, client: Client, policy: str) -> None:
        self._bundle = bundle
        self._executor: Executor | None = Executor(bundle, client, policy)
        self._entries = {(e.combo, e.phase): e for e in entries.of(bundle.index, client.platform)}

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of weights and executables; calls afterwards are InputErrors."""
        self._executor = None

    @property
    def bundle(self) -> Bundle:
        """The opened bundle: its path, index and digest."""
        return self._bundle

    def generate(self, prompts: Prompt | list[Prompt], **options: Any) -> Any:
        """A Result for a single prompt, a list of Results for a list, in its order.

        With several sequences for a prompt they stand side by side, in a list even for a single prompt. Options are
        those of `aot.runtime.requests.Options` and of `SamplingParams`. Raises InputError, NoEntryError.
        """
        run = self.start(prompts, Options.of(options))
        for _ in run:
            pass
        return run.results[0] if run.single and len(run.results) == 1 else run.results

    def stream(self, prompt: Prompt, **options: Any) -> "Run":
        """An iterator over the pieces of the text of one sequence, as they become final; `results` holds at its end."""
        run = self.start(prompt, Options.of(options))
        if len(run.sequences) != 1:
            raise InputError(f"request: stream takes one prompt and one sequence, got {len(run.sequences)}")
        if self._text is None:
            raise InputError("stream: this bundle has no tokenizer; use generate and read token_ids")
        return run

    def call(
        self, phase: str, *, state: State | None = None, source: State | None = None, **inputs: Any
    ) -> call.Outputs:
        """Runs one phase: pads inputs along their bucketed axes, cuts the outputs back.

        `state` is what an earlier call's outputs carry as `state`, to be continued. Inputs that say how a language
        model draws tokens default to greedy ones. Raises InputError, NoEntryError.
        """
        candidates = [entry for entry in self._entries.values() if entry.phase == phase]
        if not candidates:
            known = ", ".join(sorted({entry.phase for entry in self._entries.values()}))
            raise InputError(f"call: unknown phase {phase!r}; this bundle has {known}")
        return call.call(self._running, candidates, inputs, state, source, self._defaults)

    def start(self, prompts: Prompt | list[Prompt], options: Options) -> "Run":
        """A call of generate that has been checked and runs as it is iterated over."""
        record = self._bundle.index.generation
        if record is None:
            raise InputError("generate: this bundle holds no language model; use call")
        given, single = requests.prompts(prompts)
        limit = options.max_new_tokens or record.max_new_tokens
        eos = tuple(record.eos_token_id if options.eos_token_id is None else options.ends)
        request = Request(options.params(record), eos, record.pad_token_id, _eos_room(record), options.props)
        if len(eos) > request.eos_room:
            raise InputError(f"request: {len(eos)} eos_token_id, this bundle has room for {request.eos_room}")
        combos = [combo for combo, phase in self._entries if phase == "decode"]
        sequences = []
        for position, (prompt, seed) in enumerate(zip(given, options.seeds(len(given)), strict=True)):
            text = self._text
            ids = requests.tokens(prompt, position, text, record.vocab_size)
            if options.truncate:
                ids = ids[-max(1, buckets.longest(limit, combos, options.props)) :]
            for index in range(
                options.n or self._sequences_each(buckets.Need(1, len(ids), len(ids) + limit, options.props), combos)
            ):
                sequences.append(Sequence(position, index, ids, seed, limit, frozenset(eos), text, options.stops))
        generation = Generation(self._running, self._entries, combos, request)
        return Run(given, single, sequences, generation.run(sequences))

    @property
    def _running(self) -> Executor:
        if self._executor is None:
            raise InputError(f"bundle {self._bundle.path}: the model was closed; load it again")
        return self._executor

    @cached_property
    def _text(self) -> Text | None:
        if "tokenizer.json" not in self._bundle.index.tokenizer:
            return None
        files = {n: self._bundle.read(b.digest, b.bytes) for n, b in self._bundle.index.tokenizer.items()}
        return Text.from_files(files, f"bundle {self._bundle.path}")

    def _sequences_each(self, need: buckets.Need, combos: list[Combo]) -> int:
        """The default number of sequences; given by key, it is that of the entry which serves the prompt alone."""
        record = self._bundle.index.generation
        assert record is not None
        if isinstance(record.num_return_sequences, int):
            return record.num_return_sequences
        combo = buckets.choose(need, combos)
        return 1 if combo is None else record.num_return_sequences.get(combo.key, 1)

    def _defaults(self, rows: int) -> dict[str, Any]:
        """What the phases of a language model take where the caller gives nothing: greedy, and no end."""
        record = self._bundle.index.generation
        if record is None:
            return {}
        request = Request(SamplingParams(), (), record.pad_token_id, _eos_room(record))
        return {**request.inputs([None] * rows), "stop": np.zeros(rows, bool)}


class Run(Iterator[str]):
    """A call under way: iterate to run it, over pieces of text. `results` holds once it has run."""

    def __init__(self, prompts: list[Prompt], single: bool, sequences: list[Sequence], steps: Iterator[Pieces]) -> None:
        self.single = single
        self.sequences = sequences
        self._prompts, self._steps = prompts, steps

    def __next__(self) -> str:
        for pieces in self._steps:
            if text := "".join(piece for _, piece in pieces):
                return text
        raise StopIteration

    @property
    def results(self) -> list[Result]:
        """A Result for each sequence, in the order of the prompts."""
        return [sequence.result(self._prompts[sequence.prompt]) for sequence in self.sequences]


def _signed_with(public_key: Path) -> store.Admit:
    from aot.bundle import sign

    return sign.by_key(public_key)


def _eos_room(record: GenerationRecord) -> int:
    """Ids that end a sequence for which the programs have room: as many as the manifest gave, or one."""
    return max(1, len(record.eos_token_id))
