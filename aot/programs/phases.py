"""The phases of a language model as chains: prefill, decode, fork.

State of one generation, carried from phase to phase (`state/…`):

    cache/<layer>/<name>   [batch, …]              the KV cache, right-padded, as the family lays it out
    lengths                [batch] int32           tokens in the cache
    prompted               [batch, vocab] bool     whether a token occurs in the prompt
    counts                 [batch, vocab] int32    how often a token was generated
    generated              [batch] int32           tokens generated
    token                  [batch] int32           the last one of them, not yet in the cache
    done                   [batch] bool            whether the row has ended, or holds no prompt
    offset                 [batch] int32           of the next token's rotary position from its place in the row, where
                                                   images give their tokens positions by row and column
    logits                 [batch, vocab] float32  after the last token of the prompt
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from aot import chain
from aot.chain import Array, Axes, Call, Chain, Program
from aot.programs import drawing, steps
from aot.programs.decoder_parts import Decoder
from aot.slots import INPUT, OUTPUT, SOURCE, STATE, VALUE, WEIGHT

BATCH: Axes = ("batch_size",)
TOKENS: Axes = ("batch_size", "prefill_length")


@dataclass(frozen=True)
class GenerationOptions:
    """Generation options that are factors of the programs."""

    streaming_chunks: int
    """Decode steps in one call."""
    logits: str
    """none, last or all: what prefill and decode give beside tokens and logprobs."""
    eos_ids: int
    """Room for ids that end a row; unused places hold -1."""
    suppress: tuple[int, ...] = ()
    """Tokens that are never drawn."""
    begin_suppress: tuple[int, ...] = ()
    """Tokens that are not drawn first."""


@dataclass(frozen=True)
class Sizes:
    """Rows, tokens a row in one prefill, slots a row in the cache."""

    batch: int
    width: int
    capacity: int


@dataclass(frozen=True)
class Phases:
    """Makes the chains of one model on one platform."""

    decoder: Decoder
    options: GenerationOptions
    image: int | None = None
    """The token that embeddings of images take the place of; None for a prefill without any."""

    def prefill(self, sizes: Sizes) -> Chain:
        """Embedding, a block for each layer, head, first token: the block is lowered once for all layers alike.

        With images the embeddings of their tokens come from the caller, and so do rotary positions where images have
        such of their own; the rest is the same programs.
        """
        layers = range(len(self.decoder.windows))
        blocks = (self._block(sizes, layer) for layer in layers)
        calls = (*self._embedded(sizes), *blocks, self._head(sizes), self._prompt(sizes), self._first(sizes))
        outputs: dict[str, Axes] = {"token": BATCH, "logprob": BATCH}
        if self.options.logits != "none":
            outputs["logits"] = (*TOKENS, None) if self.options.logits == "all" else (*BATCH, None)
        inputs: dict[str, Axes] = {"tokens": TOKENS, "lengths": BATCH, **_axes(self._request(sizes))}
        if self.image is not None:
            inputs["embeddings"] = (*TOKENS, None)
            if self.decoder.sections is not None:
                inputs["positions"] = (BATCH[0], None, TOKENS[1])
        return Chain(calls, inputs, outputs)

    def decode(self, sizes: Sizes) -> Chain:
        """Up to `streaming_chunks` steps, fewer when all rows are done, in one program with the loop inside."""
        state = STATE.slots({path: array for path, array in self._state(sizes).items() if path != "logits"})
        weights = WEIGHT.slots(self.decoder.weights())
        inputs = {"stop": Array((sizes.batch,), "bool"), **self._request(sizes)}
        options = self.options
        function = steps.Decode(
            self.decoder, options.streaming_chunks, options.logits, sizes.capacity, options.suppress
        )
        carried = set(state) - {STATE.slot("prompted")}
        program = chain.program("decode", function, {**weights, **state, **INPUT.slots(inputs)}, carried)
        outputs: dict[str, Axes] = {"tokens": (*BATCH, None), "logprobs": (*BATCH, None), "steps": ()}
        if self.options.logits != "none":
            outputs["logits"] = (*BATCH, None, None) if self.options.logits == "all" else (*BATCH, None)
        gives = (*carried, *map(OUTPUT.slot, outputs))
        call = chain.call(program, {name: name for name, _ in program.arguments}, {slot: slot for slot in gives})
        return Chain((call,), _axes(inputs), outputs)

    def fork(self, source: Sizes, sizes: Sizes) -> Chain:
        """The state of several sequences from that of their prompts, so that a prompt is prefilled once.

        `rows` [batch] int32 says which row of the source each row continues; -1 leaves a row as it is, so that
        one state can be gathered from several sources. Each sequence then draws its own first token.
        """
        here, there = self._state(sizes), self._state(source)
        kept = [path for path in here if path not in steps.DRAWN_STATE]
        calls = (self._take(path, there[path], here[path]) for path in kept)
        outputs: dict[str, Axes] = {"token": BATCH, "logprob": BATCH}
        if self.options.logits == "last":
            outputs["logits"] = (*BATCH, None)
        return Chain((*calls, self._first(sizes)), {"rows": BATCH, **_axes(self._request(sizes))}, outputs)

    @cached_property
    def _layers(self) -> list[dict[str, Array]]:
        """The weights of each layer by their paths below it."""
        layers: list[dict[str, Array]] = [{} for _ in self.decoder.windows]
        for path, array in self.decoder.weights().items():
            kind, _, rest = path.partition("/")
            if kind == "layers":
                number, _, name = rest.partition("/")
                layers[int(number)][name] = array
        return layers

    def _embedded(self, sizes: Sizes) -> tuple[Call, ...]:
        """Vectors of the tokens, and where the decoder wants them their rotary positions."""
        placed = () if self.image is None else (self._place(sizes, self.image),)
        turned = () if self.decoder.sections is None else (self._positions(sizes),)
        return (self._embed(sizes), *placed, *turned)

    def _place(self, sizes: Sizes, image: int) -> Call:
        x, tokens = self._x(sizes), Array((sizes.batch, sizes.width), "int32")
        arguments = {"x": x, "embeddings": x, "tokens": tokens}
        program = chain.program("place", steps.PlaceStep(image), arguments, {"x"})
        takes = {"x": VALUE.slot("x"), "embeddings": INPUT.slot("embeddings"), "tokens": INPUT.slot("tokens")}
        return chain.call(program, takes, {"x": VALUE.slot("x")})

    def _positions(self, sizes: Sizes) -> Call:
        rows = Array((sizes.batch,), "int32")
        if self.image is None:
            function = steps.Positions(self._turns(sizes).shape[1], sizes.width)
            program = chain.program("positions", function, {"start": rows, "offset": rows})
            takes = {"start": STATE.slot("lengths"), "offset": STATE.slot("offset")}
            return chain.call(program, takes, {"positions": VALUE.slot("positions")})
        arguments = {"positions": self._turns(sizes), "start": rows, "lengths": rows, "offset": rows}
        program = chain.program("offset", steps.position_offset, arguments)
        takes = {"positions": INPUT.slot("positions"), "start": STATE.slot("lengths"), "lengths": INPUT.slot("lengths")}
        return chain.call(program, {**takes, "offset": STATE.slot("offset")}, {"offset": STATE.slot("offset")})

    def _embed(self, sizes: Sizes) -> Call:
        paths = self.decoder.embed_weights
        weights = {path: self.decoder.weights()[path] for path in paths}
        tokens = Array((sizes.batch, sizes.width), "int32")
        program = chain.program("embed", steps.Embed(self.decoder), {**weights, "tokens": tokens})
        takes = {**{path: WEIGHT.slot(path) for path in paths}, "tokens": INPUT.slot("tokens")}
        return chain.call(program, takes, {"x": VALUE.slot("x")})

    def _block(self, sizes: Sizes, layer: int) -> Call:
        cached, weights = self._cache(sizes), self._layers[layer]
        held = {f"cache/{name}": array for name, array in cached.items()}
        rows = Array((sizes.batch,), "int32")
        turns = {} if self.decoder.sections is None else {"positions": self._turns(sizes)}
        arguments = {"x": self._x(sizes), "start": rows, "lengths": rows, **turns, **held, **weights}
        function = steps.BlockStep(self.decoder, self.decoder.windows[layer])
        caches = {f"cache/{name}": STATE.slot(f"cache/{layer}/{name}") for name in cached}
        program = _program("block", function, tuple(arguments.items()), frozenset({"x", *caches}))
        takes = {"x": VALUE.slot("x"), "start": STATE.slot("lengths"), "lengths": INPUT.slot("lengths"), **caches}
        takes |= {path: WEIGHT.slot(f"layers/{layer}/{path}") for path in weights}
        takes |= {name: VALUE.slot(name) if self.image is None else INPUT.slot(name) for name in turns}
        return chain.call(program, takes, {"x": VALUE.slot("x"), **caches})

    def _head(self, sizes: Sizes) -> Call:
        paths, every = self.decoder.head_weights, self.options.logits == "all"
        weights = {path: self.decoder.weights()[path] for path in paths}
        before = self._state(sizes)["logits"]
        arguments = {"x": self._x(sizes), "lengths": Array((sizes.batch,), "int32"), "before": before, **weights}
        program = chain.program("head", steps.Head(self.decoder, every), arguments, {"before"})
        takes = {"x": VALUE.slot("x"), "lengths": INPUT.slot("lengths"), "before": STATE.slot("logits")}
        takes |= {path: WEIGHT.slot(path) for path in paths}
        gives = {"logits": STATE.slot("logits")} | ({"all": OUTPUT.slot("logits")} if every else {})
        return chain.call(program, takes, gives)

    def _prompt(self, sizes: Sizes) -> Call:
        state = self._state(sizes)
        taken = {name: state[name] for name in ("prompted", "counts", "generated", "token")}
        inputs = {"tokens": Array((sizes.batch, sizes.width), "int32"), "lengths": state["lengths"]}
        program = chain.program(
            "prompt", steps.book_prompt, {**taken, **inputs, "start": state["lengths"]}, {"prompted"}
        )
        takes = {**{name: STATE.slot(name) for name in taken}, **{name: INPUT.slot(name) for name in inputs}}
        gives = {"prompted": STATE.slot("prompted"), "lengths": STATE.slot("lengths")}
        return chain.call(program, {**takes, "start": STATE.slot("lengths")}, gives)

    def _first(self, sizes: Sizes) -> Call:
        state, request = self._state(sizes), self._request(sizes)
        taken = {name: state[name] for name in ("logits", "prompted", "lengths")}
        shown = self.options.logits == "last"
        suppressed = tuple(sorted({*self.options.suppress, *self.options.begin_suppress}))
        program = chain.program("first", steps.First(shown, suppressed), {**taken, **request})
        takes = {**{name: STATE.slot(name) for name in taken}, **{name: INPUT.slot(name) for name in request}}
        gives = {"first": OUTPUT.slot("token"), "logprob": OUTPUT.slot("logprob")}
        gives |= {name: STATE.slot(name) for name in steps.DRAWN_STATE} | (
            {"shown": OUTPUT.slot("logits")} if shown else {}
        )
        return chain.call(program, takes, gives)

    def _take(self, path: str, source: Array, into: Array) -> Call:
        arguments = {"source": source, "into": into, "rows": Array(into.shape[:1], "int32")}
        program = _program("take", steps.take_rows, tuple(arguments.items()), frozenset({"into"}))
        takes = {"source": SOURCE.slot(path), "into": STATE.slot(path), "rows": INPUT.slot("rows")}
        return chain.call(program, takes, {"result": STATE.slot(path)})

    def _x(self, sizes: Sizes) -> Array:
        return Array((sizes.batch, sizes.width, self.decoder.hidden), self.decoder.dtype)

    def _turns(self, sizes: Sizes) -> Array:
        """Rotary positions: of each token one for each section of the frequencies."""
        assert self.decoder.sections is not None
        return Array((sizes.batch, len(self.decoder.sections), sizes.width), "int32")

    def _cache(self, sizes: Sizes) -> dict[str, Array]:
        return dict(self.decoder.cache(sizes.batch, sizes.capacity))

    def _state(self, sizes: Sizes) -> dict[str, Array]:
        rows, table = (sizes.batch,), (sizes.batch, self.decoder.vocab)
        layers = range(len(self.decoder.windows))
        cache = {f"cache/{n}/{name}": a for n in layers for name, a in self._cache(sizes).items()}
        turned = () if self.decoder.sections is None else ("offset",)
        words = {name: Array(rows, "int32") for name in ("lengths", "generated", "token", *turned)}
        tables = {"prompted": Array(table, "bool"), "counts": Array(table, "int32"), "logits": Array(table, "float32")}
        return {**cache, **words, **tables, "done": Array(rows, "bool")}

    def _request(self, sizes: Sizes) -> dict[str, Array]:
        """Inputs that say how to draw and when to end: traced, so that no value ever recompiles."""
        rows = (sizes.batch,)
        drawn = {name: Array((*rows, *shape), dtype) for name, (shape, dtype) in drawing.OPTIONS.items()}
        ending = {"limit": Array(rows, "int32"), "eos": Array((self.options.eos_ids,), "int32")}
        return {**drawn, **ending, "pad": Array((), "int32")}


@cache
def _program(
    name: str,
    function: Callable[..., Mapping[str, Any]],
    arguments: tuple[tuple[str, Array], ...],
    donated: frozenset[str],
) -> Program:
    """A program that many calls share: made once, it is found again by what it is and not by what it is made of."""
    return chain.program(name, function, dict(arguments), donated)


def _axes(inputs: Mapping[str, Array]) -> dict[str, Axes]:
    shared = ("eos", "pad")  # one for the whole batch
    return {
        n: tuple(None for _ in a.shape) if n in shared else (*BATCH, *(None for _ in a.shape[1:]))
        for n, a in inputs.items()
    }
