"""The calls that the phases of a language model are made of, each with the slots that it takes and gives."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

from aot import chain
from aot.chain import Array, Call, Program
from aot.programs import choosing, drawing, loop, steps
from aot.programs.decoder_parts import Decoder
from aot.slots import INPUT, OUTPUT, SOURCE, STATE, VALUE, WEIGHT

_ROW_STATE = ("counts", "generated", "lengths", "token", "done")
"""State beside the cache that drawing a token takes and gives."""


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
    """Rows, tokens a row that are fed at once, slots a row in the cache."""

    batch: int
    width: int
    capacity: int


@dataclass(frozen=True)
class Calls:
    """Makes the calls of one model on one platform, for some sizes."""

    decoder: Decoder
    options: GenerationOptions
    sizes: Sizes
    tokens: str
    """The slot of the tokens [batch, width] that are fed."""
    fed: str
    """The slot of how many of them each row gets, [batch]."""
    image: int | None = None
    """The token that embeddings of images take the place of; None where there are none."""

    def embedded(self) -> tuple[Call, ...]:
        """Vectors of the tokens, and where the decoder wants them their rotary positions."""
        placed = () if self.image is None else (self._place(self.image),)
        turned = () if self.decoder.sections is None else (self._positions(),)
        return (self._embed(), *placed, *turned)

    def blocks(self) -> Iterator[Call]:
        """Each layer, called by one program with all that are alike."""
        return (self._block(layer) for layer in range(len(self.decoder.windows)))

    def heads(self) -> tuple[Call, ...]:
        """Logits after the last token of each row, by the same program for any width."""
        if self.sizes.width == 1:
            return (self._head(VALUE.slot("x")),)
        program = chain.program("last", steps.last, {"x": self._x, "lengths": self._rows})
        last = chain.call(program, {"x": VALUE.slot("x"), "lengths": self.fed}, {"last": VALUE.slot("last")})
        return last, replace(self, sizes=replace(self.sizes, width=1))._head(VALUE.slot("last"))

    def wide_head(self) -> Call:
        """Logits after the last token of each row, and those of every position as an output."""
        program = chain.program("head", steps.WideHead(self.decoder), self._headed, {"before"})
        return chain.call(
            program, self._into_head(VALUE.slot("x")), {"logits": STATE.slot("logits"), "all": OUTPUT.slot("logits")}
        )

    def prompt(self) -> Call:
        """Books the tokens as prompt."""
        taken = {name: self.state[name] for name in ("prompted", "counts", "generated", "token")}
        given = {"tokens": self._ids, "lengths": self._rows, "start": self._rows}
        program = chain.program(
            "prompt", choosing.BookPrompt(self.sizes.capacity), {**taken, **given}, {"prompted", "counts"}
        )
        takes = {name: STATE.slot(name) for name in taken}
        takes |= {"tokens": self.tokens, "lengths": self.fed, "start": STATE.slot("lengths")}
        gives = {name: STATE.slot(name) for name in ("prompted", "counts", "generated", "done")}
        return chain.call(program, takes, {**gives, "room": VALUE.slot("room")})

    def undrawn(self) -> Call:
        """Rows of which nothing is generated, and which get no more tokens."""
        arguments = {"lengths": self._rows, "counts": self.state["counts"]}
        program = chain.program("undrawn", choosing.Undrawn(self.sizes.capacity), arguments, {"counts"})
        gives = {name: STATE.slot(name) for name in ("counts", "generated", "done")}
        gives |= {"fed": self.fed, "room": VALUE.slot("room")}
        return chain.call(program, {name: STATE.slot(name) for name in arguments}, gives)

    def draw(self, shown: bool, names: Mapping[str, str]) -> Call:
        """The next token of each row: its outputs, by what they are called in the phase."""
        taken = {name: self.state[name] for name in ("logits", "prompted", *_ROW_STATE)}
        arguments = {**taken, "fed": self._rows, "room": Array((), "int32"), **self.request}
        program = chain.program("draw", self._drawing(shown), arguments, {"counts"})
        takes = {name: STATE.slot(name) for name in taken} | {name: INPUT.slot(name) for name in self.request}
        gives = {name: STATE.slot(name) for name in _ROW_STATE} | self._following(shown, names)
        return chain.call(program, {**takes, "fed": self.fed, "room": VALUE.slot("room")}, gives)

    def begin(self, shown: bool, names: Mapping[str, str]) -> Call:
        """What decode starts from."""
        taken = {name: self.state[name] for name in ("token", "done", "lengths")}
        arguments = {**taken, "stop": self.state["done"], "pad": self.request["pad"]}
        program = chain.program("begin", self._beginning(shown), arguments)
        takes = {name: STATE.slot(name) for name in taken} | {name: INPUT.slot(name) for name in ("stop", "pad")}
        gives = {"done": STATE.slot("done"), "room": VALUE.slot("room")}
        return chain.call(program, takes, gives | self._following(shown, names))

    def loop(self, inputs: Mapping[str, Array], outputs: Mapping[str, Any]) -> Call:
        """All steps of decode and the loop over them in one program."""
        state = {STATE.slot(path): array for path, array in self.state.items() if path != "logits"}
        weights = {WEIGHT.slot(path): array for path, array in self.decoder.weights().items()}
        options, shown = self.options, self.options.logits != "none"
        draw, begin = self._drawing(shown), self._beginning(shown)
        function = loop.Decode(self.decoder, options.streaming_chunks, options.logits, begin, draw)
        carried = set(state) - {STATE.slot("prompted")}
        arguments = {**weights, **state, **{INPUT.slot(name): array for name, array in inputs.items()}}
        program = chain.program("decode", function, arguments, carried)
        gives = (*carried, *(OUTPUT.slot(name) for name in outputs))
        return chain.call(program, {name: name for name, _ in program.arguments}, {slot: slot for slot in gives})

    def take(self, path: str, source: Array) -> Call:
        """Rows of an array of the state from those of another state."""
        into = self.state[path]
        arguments = {"source": source, "into": into, "rows": self._rows}
        program = _program("take", steps.take_rows, tuple(arguments.items()), frozenset({"into"}))
        takes = {"source": SOURCE.slot(path), "into": STATE.slot(path), "rows": INPUT.slot("rows")}
        return chain.call(program, takes, {"result": STATE.slot(path)})

    def _drawing(self, shown: bool) -> choosing.Draw:
        """The function that draws a token."""
        return choosing.Draw(shown, self.options.suppress, self.options.begin_suppress)

    def _beginning(self, shown: bool) -> choosing.Begin:
        """The function with which decode begins."""
        return choosing.Begin(self.sizes.capacity, self.decoder.vocab if shown else None)

    @cached_property
    def state(self) -> dict[str, Array]:
        """The arrays of one generation by path."""
        rows, table = (self.sizes.batch,), (self.sizes.batch, self.decoder.vocab)
        layers = range(len(self.decoder.windows))
        cache = {f"cache/{n}/{name}": a for n in layers for name, a in self._cache.items()}
        turned = () if self.decoder.sections is None else ("offset",)
        words = {name: Array(rows, "int32") for name in ("lengths", "generated", "token", *turned)}
        tables = {"prompted": Array(table, "bool"), "counts": Array(table, "int32"), "logits": Array(table, "float32")}
        return {**cache, **words, **tables, "done": Array(rows, "bool")}

    @cached_property
    def request(self) -> dict[str, Array]:
        """Inputs that say how to draw and when to end: traced, so that no value ever recompiles."""
        rows = (self.sizes.batch,)
        drawn = {name: Array((*rows, *shape), dtype) for name, (shape, dtype) in drawing.OPTIONS.items()}
        ending = {"limit": Array(rows, "int32"), "eos": Array((self.options.eos_ids,), "int32")}
        return {**drawn, **ending, "pad": Array((), "int32")}

    def _head(self, x: str) -> Call:
        program = chain.program("head", steps.Head(self.decoder), self._headed, {"before"})
        return chain.call(program, self._into_head(x), {"logits": STATE.slot("logits")})

    @property
    def _headed(self) -> dict[str, Array]:
        """The arguments of a head."""
        weights = {path: self.decoder.weights()[path] for path in self.decoder.head_weights}
        return {"x": self._x, "lengths": self._rows, "before": self.state["logits"], **weights}

    def _into_head(self, x: str) -> dict[str, str]:
        weights = {path: WEIGHT.slot(path) for path in self.decoder.head_weights}
        return {"x": x, "lengths": self.fed, "before": STATE.slot("logits"), **weights}

    def _embed(self) -> Call:
        paths = self.decoder.embed_weights
        weights = {path: self.decoder.weights()[path] for path in paths}
        program = chain.program("embed", steps.Embed(self.decoder), {**weights, "tokens": self._ids})
        takes = {**{path: WEIGHT.slot(path) for path in paths}, "tokens": self.tokens}
        return chain.call(program, takes, {"x": VALUE.slot("x")})

    def _place(self, image: int) -> Call:
        arguments = {"x": self._x, "embeddings": self._x, "tokens": self._ids}
        program = chain.program("place", steps.PlaceStep(image), arguments, {"x"})
        takes = {"x": VALUE.slot("x"), "embeddings": INPUT.slot("embeddings"), "tokens": self.tokens}
        return chain.call(program, takes, {"x": VALUE.slot("x")})

    def _positions(self) -> Call:
        if self.image is None:
            function = steps.Positions(self._turns.shape[1], self.sizes.width)
            program = chain.program("positions", function, {"start": self._rows, "offset": self._rows})
            takes = {"start": STATE.slot("lengths"), "offset": STATE.slot("offset")}
            return chain.call(program, takes, {"positions": VALUE.slot("positions")})
        arguments = {"positions": self._turns, "start": self._rows, "lengths": self._rows, "offset": self._rows}
        program = chain.program("offset", steps.position_offset, arguments)
        takes = {"positions": INPUT.slot("positions"), "start": STATE.slot("lengths"), "lengths": self.fed}
        return chain.call(program, {**takes, "offset": STATE.slot("offset")}, {"offset": STATE.slot("offset")})

    def _block(self, layer: int) -> Call:
        weights = self._layers[layer]
        turns = {} if self.decoder.sections is None else {"positions": self._turns}
        cached = {f"cache/{name}": array for name, array in self._cache.items()}
        arguments = {"x": self._x, "start": self._rows, "lengths": self._rows, **turns, **cached, **weights}
        function = steps.BlockStep(self.decoder, self.decoder.windows[layer])
        caches = {f"cache/{name}": STATE.slot(f"cache/{layer}/{name}") for name in self._cache}
        program = _program("block", function, tuple(arguments.items()), frozenset({"x", *caches}))
        takes = {"x": VALUE.slot("x"), "start": STATE.slot("lengths"), "lengths": self.fed, **caches}
        takes |= {path: WEIGHT.slot(f"layers/{layer}/{path}") for path in weights}
        takes |= {name: VALUE.slot(name) if self.image is None else INPUT.slot(name) for name in turns}
        return chain.call(program, takes, {"x": VALUE.slot("x"), **caches})

    def _following(self, shown: bool, names: Mapping[str, str]) -> dict[str, str]:
        """What drawing gives beside state: what is fed next, and outputs by what the phase calls them."""
        outputs = {"drawn": names["token"], "logprob": names["logprob"], **({"shown": "logits"} if shown else {})}
        values = {"tokens": VALUE.slot("tokens"), "fed": VALUE.slot("fed"), "more": VALUE.slot("more")}
        return values | {name: OUTPUT.slot(output) for name, output in outputs.items()}

    @property
    def _rows(self) -> Array:
        return Array((self.sizes.batch,), "int32")

    @property
    def _ids(self) -> Array:
        return Array((self.sizes.batch, self.sizes.width), "int32")

    @property
    def _x(self) -> Array:
        return Array((self.sizes.batch, self.sizes.width, self.decoder.hidden), self.decoder.dtype)

    @property
    def _turns(self) -> Array:
        """Rotary positions: of each token one for each section of the frequencies."""
        assert self.decoder.sections is not None
        return Array((self.sizes.batch, len(self.decoder.sections), self.sizes.width), "int32")

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

    @cached_property
    def _cache(self) -> Mapping[str, Array]:
        return dict(self.decoder.cache(self.sizes.batch, self.sizes.capacity))


@cache
def _program(
    name: str,
    function: Callable[..., Mapping[str, Any]],
    arguments: tuple[tuple[str, Array], ...],
    donated: frozenset[str],
) -> Program:
    """A program that many calls share: made once, it is found again by what it is and not by what it is made of."""
    return chain.program(name, function, dict(arguments), donated)
