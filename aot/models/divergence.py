"""How far a quantized model is from the same model in its own dtype, over some text."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from aot.chain import Call, Program
from aot.models.checkpoints import arrays, quantize
from aot.models.language import LanguageModel
from aot.models.layers.decoder import FamilyDecoder
from aot.programs.calls import GenerationOptions, Sizes
from aot.programs.phases import Phases
from aot.slots import INPUT, OUTPUT, STATE, WEIGHT, slot_of

_PLATFORM = "cpu"
_AT_ONCE = 32  # tokens whose distributions are compared at once, in float64

NumpyArray = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Divergence:
    """The Kullback-Leibler divergence of the next token's distributions, from that of the model's own dtype."""

    tokens: int
    nats: float
    """The mean; what it adds to the logarithm of the perplexity of what the model itself would say."""
    alike: float
    """The share of places whose likeliest token is the same."""


def measure_divergence(model: LanguageModel, tokens: NumpyArray, lengths: NumpyArray) -> Divergence:
    """Runs rows of tokens [batch, width], `lengths` [batch] of each, through both models, on the CPU that this is.

    They take the weights in turn, so that never more than a layer of both is held.
    """
    weights = _Weights(model)
    narrow, exact = (_Run(_decoder(model, kind), tokens, lengths) for kind in (model.quantization, None))
    for ours, theirs in zip(narrow.calls, exact.calls, strict=True):
        narrow.step(ours, weights.stored(_weights(ours)))
        exact.step(theirs, weights.exact(_weights(theirs)))
        weights.drop(_weights(ours))
    given = np.arange(tokens.shape[1])[None] < lengths[:, None]
    return _compared(exact.logits[given], narrow.logits[given])


def _decoder(model: LanguageModel, quantization: str | None) -> FamilyDecoder:
    return FamilyDecoder(model.config.decoder, model.dtype, _PLATFORM, quantization)


def _weights(call: Call) -> tuple[str, ...]:
    """The paths of those that a call takes."""
    return tuple(slot_of(slot).path for _, slot in call.takes if WEIGHT.holds(slot))


class _Weights:
    """A model's weights, read once, as they are stored and in the model's own dtype."""

    def __init__(self, model: LanguageModel) -> None:
        self._dtype = arrays.weight_dtype(model.dtype)
        self._read: dict[str, NumpyArray] = {}
        self._stored: dict[str, NumpyArray] = {}
        self._left = quantize.stored_tensors(
            self._reading(model), model.abstract_weights(), model.config.decoder.head_dim
        )

    def stored(self, paths: tuple[str, ...]) -> dict[str, NumpyArray]:
        while not self._stored.keys() >= set(paths):
            path, array = next(self._left)
            self._stored[path] = array
        return {path: self._stored[path] for path in paths}

    def exact(self, paths: tuple[str, ...]) -> dict[str, NumpyArray]:
        """The weights at some paths in the model's own dtype, once they were asked for as stored."""
        with np.errstate(over="ignore"):  # what is too large for a float16 shows in the divergence
            return {path: self._read[path].astype(self._dtype, copy=False) for path in paths}

    def drop(self, paths: tuple[str, ...]) -> None:
        """Lets go of the weights of a layer; others may be asked for again."""
        for path in paths:
            if path.startswith("layers/"):
                del self._stored[path]
                self._read.pop(path, None)

    def _reading(self, model: LanguageModel) -> Iterator[tuple[str, NumpyArray]]:
        for path, tensor in model.tensors():
            self._read[path] = tensor
            yield path, tensor


class _Run:
    """A prefill under way, from the embedding to the logits of every token."""

    def __init__(self, decoder: FamilyDecoder, tokens: NumpyArray, lengths: NumpyArray) -> None:
        rows, width = tokens.shape
        chain = Phases(decoder, GenerationOptions(1, "all", 1)).prefill(Sizes(rows, width, width))
        ends = [call.program.name for call in chain.calls].index("head")
        self.calls = chain.calls[: ends + 1]
        self._slots: dict[str, Any] = {INPUT.slot("tokens"): tokens, INPUT.slot("lengths"): lengths}
        self._compiled: dict[Program, Any] = {}

    def step(self, call: Call, weights: dict[str, NumpyArray]) -> None:
        """State that nothing has given is zeros."""
        slots = self._slots | WEIGHT.slots(weights)
        shapes = dict(call.program.arguments)
        zeros = {slot: np.zeros(shapes[name].shape, shapes[name].dtype) for name, slot in call.takes}
        function = self._compiled.setdefault(call.program, jax.jit(call.program.function))
        made = function(**{name: slots.get(slot, zeros[slot]) for name, slot in call.takes})
        self._slots |= {slot: made[name] for name, slot in call.gives if not slot.startswith(STATE.slot("cache/"))}

    @property
    def logits(self) -> NumpyArray:
        return np.asarray(self._slots[OUTPUT.slot("logits")])


def _compared(exact: NumpyArray, narrow: NumpyArray) -> Divergence:
    """How far logits [tokens, vocab] of the narrow model are from the exact one's."""
    nats = [_divergence(exact[i : i + _AT_ONCE], narrow[i : i + _AT_ONCE]) for i in range(0, len(exact), _AT_ONCE)]
    alike = exact.argmax(-1) == narrow.argmax(-1)
    return Divergence(len(exact), float(np.concatenate(nats).mean()), float(alike.mean()))


def _divergence(exact: NumpyArray, narrow: NumpyArray) -> NumpyArray:
    p, q = (_log_softmax(logits.astype(np.float64)) for logits in (exact, narrow))
    found: NumpyArray = (np.exp(p) * (p - q)).sum(-1)
    return found


def _log_softmax(logits: NumpyArray) -> NumpyArray:
    shifted = logits - logits.max(-1, keepdims=True)
    found: NumpyArray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found
