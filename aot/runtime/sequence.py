"""One sequence in the making, and the Result that it ends as."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aot.errors import BundleError, InputError
from aot.runtime.requests import Prepared, Prompt

if TYPE_CHECKING:
    from aot.runtime.prompting.text import Stream, TextTokenizer


@dataclass(frozen=True)
class Result:
    """What was generated for one sequence of one prompt."""

    token_ids: list[int]
    """Generated tokens, with the EOS that ended them, without padding."""
    logprobs: list[float] = field(repr=False)
    """Log-softmax of the raw logits at each token."""
    finish_reason: str
    """`eos`, `stop` (a stop string) or `length`."""
    prompt_tokens: int
    entry: str
    """Key of the combo that served it."""
    seed: int
    prompt: Prompt = field(repr=False)
    generated: str | None = field(repr=False)
    """The text, or None where the bundle has no tokenizer."""
    images: list[dict[str, int]] = field(default_factory=list)
    """The `height` and `width` that each image of the prompt was brought to, and the `tokens` that it took."""

    @property
    def text(self) -> str:
        """The generated part, special tokens left out, cut before the stop string."""
        if self.generated is None:
            raise InputError("result: this bundle has no tokenizer, so there is no text; read token_ids")
        return self.generated

    @property
    def completed(self) -> Prompt:
        """The prompt with the answer, in its own type; a conversation gains an assistant turn."""
        if isinstance(self.prompt, str):
            return self.prompt + self.text
        if all(isinstance(item, Mapping) for item in self.prompt):
            turn = {"role": "assistant", "content": self.text}
            return (*self.prompt, turn) if isinstance(self.prompt, tuple) else [*self.prompt, turn]
        ids = [*(int(token) for token in self.prompt), *self.token_ids]  # type: ignore[arg-type]
        return _like(self.prompt, ids)

    def to_dict(self) -> dict[str, Any]:
        """The result as `aot run --json` prints it."""
        named = ("token_ids", "logprobs", "finish_reason", "prompt_tokens", "entry", "seed")
        has_text = self.generated is not None
        completed = self.completed if has_text or not isinstance(self.prompt, str) else None
        plain = completed.tolist() if isinstance(completed, np.ndarray) else completed
        return {
            "text": self.generated,
            **({} if plain is None else {"completed": plain}),
            **{name: getattr(self, name) for name in named},
            **({"images": self.images} if self.images else {}),
        }


def _like(prompt: Prompt, ids: list[int]) -> Prompt:
    """Token ids as the type that a prompt has; an array's is widened where it could not hold any token."""
    if isinstance(prompt, np.ndarray):
        return np.array(ids, prompt.dtype if prompt.itemsize >= 4 else np.int32)
    return tuple(ids) if isinstance(prompt, tuple) else ids


@dataclass
class RunningSequence:
    """A row of a batch while it runs: collects tokens until it ends."""

    position: int
    """Position of its prompt in the call."""
    index: int
    """The place among that prompt's sequences."""
    prepared: Prepared
    seed: int
    limit: int
    """Tokens to generate at most."""
    eos: frozenset[int]
    text: "Callable[[], TextTokenizer | None]"
    """Gives the bundle's tokenizer, where it has one. It takes long to make, so not before it is needed."""
    stop: tuple[str, ...]
    streamed: bool = False
    """Whether text is wanted as it becomes final."""
    entry: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str | None = None

    @property
    def ids(self) -> list[int]:
        """Token ids of its prompt."""
        return self.prepared.ids

    def __post_init__(self) -> None:
        text = self.text() if self.stop or self.streamed else None
        if self.stop and text is None:
            raise InputError("request: stop strings need a tokenizer, which this bundle has none of; use eos_token_id")
        self._stream = None if text is None else _stream(text, self.stop, self.ids)
        self._pieces: list[str] = []

    def take(self, tokens: Iterable[int], logprobs: Iterable[float]) -> str:
        """Adds tokens until the sequence ends, and gives the text that has become final.

        Raises BundleError for a token of logits that are no numbers: it would be a token like any other.
        """
        before = len(self._pieces)
        for token, logprob in zip(tokens, logprobs, strict=True):
            if self.finish is not None:
                break
            number = float(logprob)
            if not math.isfinite(number):
                raise self._fault(number)
            self.tokens.append(int(token))
            self.logprobs.append(number)
            self._book(int(token))
        if self.finish is not None and self._stream is not None:
            self._pieces.append(self._stream.flush())
            if self._stream.stopped:  # the text held back until the end may complete a stop string
                self.finish = "stop"
        return "".join(self._pieces[before:])

    def _book(self, token: int) -> None:
        if self._stream is not None:
            self._pieces.append(self._stream.feed([token]))
        if self._stream is not None and self._stream.stopped:
            self.finish = "stop"
        elif token in self.eos:
            self.finish = "eos"
        elif len(self.tokens) >= self.limit:
            self.finish = "length"

    def _fault(self, logprob: float) -> BundleError:
        return BundleError(
            f"bundle: entry {self.entry[:12]}… gave no finite logits for prompt {self.position} at token "
            f"{len(self.tokens)} (the log-probability is {logprob}); its weights are not finite, or overflow its "
            "dtype: check the checkpoint, or rebuild it with dtype bfloat16 or float32"
        )

    def result(self, prompt: Prompt) -> Result:
        """The result of the sequence; `prompt` is what the caller gave."""
        assert self.finish is not None, self
        text = self._whole() if self._stream is None else "".join(self._pieces)
        images = [{**image.size._asdict(), "tokens": image.tokens} for image in self.prepared.images]
        return Result(
            self.tokens, self.logprobs, self.finish, len(self.ids), self.entry, self.seed, prompt, text, images
        )

    def _whole(self) -> str | None:
        text = self.text()
        if text is None:
            return None
        stream = _stream(text, (), self.ids)
        return stream.feed(self.tokens) + stream.flush()


def _stream(text: "TextTokenizer", stop: tuple[str, ...], behind: list[int]) -> "Stream":
    from aot.runtime.prompting.text import Stream

    return Stream(text, stop, behind)
