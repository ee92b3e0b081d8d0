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

from collections.abc import Mapping
from dataclasses import dataclass, replace

from aot.chain import Array, Axes, Call, Chain, Repeat
from aot.programs import choosing
from aot.programs.calls import Calls, GenerationOptions, Sizes
from aot.programs.decoder_parts import Decoder
from aot.slots import INPUT, OUTPUT, VALUE

BATCH: Axes = ("batch_size",)
TOKENS: Axes = ("batch_size", "prefill_length")
_FIRST = {"token": "token", "logprob": "logprob"}
_LATER = {"token": "tokens", "logprob": "logprobs"}


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
        logits = self.options.logits
        made = Calls(self.decoder, self.options, sizes, INPUT.slot("tokens"), INPUT.slot("lengths"), self.image)
        heads = (made.wide_head(),) if logits == "all" else made.heads()
        ending = (*heads, made.prompt(), made.draw(logits == "last", _FIRST))
        outputs: dict[str, Axes] = {"token": BATCH, "logprob": BATCH}
        if logits != "none":
            outputs["logits"] = (*TOKENS, None) if logits == "all" else (*BATCH, None)
        inputs: dict[str, Axes] = {"tokens": TOKENS, "lengths": BATCH, **_axes(made.request)}
        if self.image is not None:
            inputs["embeddings"] = (*TOKENS, None)
            if self.decoder.sections is not None:
                inputs["positions"] = (BATCH[0], None, TOKENS[1])
        return Chain((*made.embedded(), *made.blocks(), *ending), inputs, outputs)

    def decode(self, sizes: Sizes) -> Chain:
        """Up to `streaming_chunks` steps, fewer when all rows are done."""
        made = Calls(self.decoder, self.options, replace(sizes, width=1), VALUE.slot("tokens"), VALUE.slot("fed"))
        inputs = {"stop": Array((sizes.batch,), "bool"), **made.request}
        outputs: dict[str, Axes] = {"tokens": (*BATCH, None), "logprobs": (*BATCH, None), "steps": ()}
        if self.options.logits != "none":
            outputs["logits"] = (*BATCH, None, None) if self.options.logits == "all" else (*BATCH, None)
        if not self.decoder.stepwise:
            return Chain((made.loop(inputs, outputs),), _axes(inputs), outputs)
        return Chain(*self._steps(made, inputs, outputs))

    def _steps(
        self, made: Calls, inputs: Mapping[str, Array], outputs: Mapping[str, Axes]
    ) -> tuple[tuple[Call, ...], Mapping[str, Axes], Mapping[str, Axes], Repeat]:
        """The programs of prefill for one token a row, called anew for each step.

        One program for all layers, which grows with their number, would have to be loaded before the second token.
        """
        logits = self.options.logits
        drawn = made.draw(logits != "none", _LATER)
        turn = (*made.embedded(), *made.blocks(), *made.heads(), drawn)
        stacked = (
            OUTPUT.slot("tokens"),
            OUTPUT.slot("logprobs"),
            *([OUTPUT.slot("logits")] if logits == "all" else []),
        )
        repeat = Repeat(
            1, 1 + len(turn), VALUE.slot("more"), self.options.streaming_chunks, OUTPUT.slot("steps"), stacked
        )
        return (made.begin(logits != "none", _LATER), *turn), _axes(inputs), outputs, repeat

    def fork(self, source: Sizes, sizes: Sizes) -> Chain:
        """The state of several sequences from that of their prompts, so that a prompt is prefilled once.

        `rows` [batch] int32 says which row of the source each row continues; -1 leaves a row as it is, so that
        one state can be gathered from several sources. Each sequence then draws its own first token.
        """
        here = Calls(self.decoder, self.options, sizes, "", VALUE.slot("fed"))
        there = replace(here, sizes=source).state
        taken = (here.take(path, there[path]) for path in here.state if path not in choosing.DRAWN_STATE)
        shown = self.options.logits == "last"
        outputs: dict[str, Axes] = {"token": BATCH, "logprob": BATCH, **({"logits": (*BATCH, None)} if shown else {})}
        calls = (*taken, here.undrawn(), here.draw(shown, _FIRST))
        return Chain(calls, {"rows": BATCH, **_axes(here.request)}, outputs)


def _axes(inputs: Mapping[str, Array]) -> dict[str, Axes]:
    shared = ("eos", "pad")  # one for the whole batch
    return {
        n: tuple(None for _ in a.shape) if n in shared else (*BATCH, *(None for _ in a.shape[1:]))
        for n, a in inputs.items()
    }
