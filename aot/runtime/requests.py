"""What a caller gives to be continued, checked and spelled out: prompts as token ids and pixels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aot.errors import InputError, shown
from aot.runtime.options import is_whole
from aot.vision import Size

if TYPE_CHECKING:
    from aot.runtime.prompting.text import TextTokenizer

Prompt = str | Sequence[int] | npt.NDArray[np.integer[Any]] | Sequence[Mapping[str, Any]]
"""A text, token ids, or a conversation: messages with role and content."""


@dataclass(frozen=True, eq=False)
class Image:
    """An image of a prompt, brought to one of the shapes that the bundle encodes."""

    size: Size
    tokens: int
    """Embeddings that it becomes, one for each of its tokens in the prompt."""
    pixels: npt.NDArray[np.float32]
    """What `encode` takes: [channels, height, width]."""


@dataclass(frozen=True)
class Prepared:
    """A prompt as the programs take it."""

    ids: list[int]
    """Token ids, those of images included."""
    images: tuple[Image, ...] = ()
    """The images in the order of their tokens."""

    def last(self, count: int, position: int) -> "Prepared":
        """The last tokens of the prompt, at most `count`. Raises InputError where that would cut images off."""
        if len(self.ids) <= count:
            return self
        if self.images:
            raise InputError(
                f"request: prompt {position} has {len(self.ids)} tokens, images among them, and cannot be truncated to "
                f"{count}; give fewer images, or less text"
            )
        return Prepared(self.ids[-count:])


MOST_SEQUENCES = 1 << 16
"""Sequences of one call, unless it has more prompts."""


def list_prompts(given: Prompt | Sequence[Prompt]) -> tuple[list[Prompt], bool]:
    """The prompts of a call, and whether it was a single one. Raises InputError for anything else."""
    if isinstance(given, str) or is_tokens(given) or is_conversation(given):
        return [given], True  # type: ignore[list-item]
    if not isinstance(given, (list, tuple)):
        raise InputError(f"request: must be a text, token ids, a conversation or a list of such, got {shown(given)}")
    if not given:
        raise InputError("request: the batch is empty; give at least one prompt")
    for position, prompt in enumerate(given):
        if not (isinstance(prompt, str) or is_tokens(prompt) or is_conversation(prompt)):
            raise InputError(
                f"request: prompt {position} must be a text, token ids or a conversation that is not empty, "
                f"got {shown(prompt)}"
            )
    return list(given), False


def check_sequences(count: int, prompts: int) -> None:
    """Raises InputError for more sequences than a call may have."""
    if count > (most := max(MOST_SEQUENCES, prompts)):
        raise InputError(f"request: {count} sequences are above the limit of {most} for a call; ask for fewer (n)")


def encode_prompt(
    prompt: Prompt,
    position: int,
    tokenizer: "Callable[[], TextTokenizer | None]",
    vocab_size: int,
    first: Sequence[int] = (),
    template: Mapping[str, Any] | None = None,
) -> list[int]:
    """A prompt as token ids; only a text asks for the tokenizer. `first` stands before the text of a string.

    `template` is what the chat template takes beside a conversation.

    Raises InputError for an id out of range, no tokens, or a text without a tokenizer.
    """
    if is_tokens(prompt):
        ids = [int(token) for token in prompt]  # type: ignore[arg-type]
    elif (text := tokenizer()) is None:
        raise InputError(f"request: prompt {position} is text, and this bundle has no tokenizer; give token ids")
    elif isinstance(prompt, str):
        ids = text.encode(prompt, first)
    else:
        ids = text.encode_chat(prompt, template)  # type: ignore[arg-type]
    if not ids:
        raise InputError(f"request: prompt {position} has no tokens; give at least one")
    if wrong := [token for token in ids if not 0 <= token < vocab_size]:
        raise InputError(
            f"request: prompt {position} has the token {shown(wrong[0])}, the vocabulary ends at {vocab_size - 1}"
        )
    return ids


def is_tokens(value: Any) -> bool:
    """Whether a prompt is token ids."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.size > 0 and value.dtype.kind in "iu"
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(is_whole, value))


def is_conversation(value: Any) -> bool:
    """Whether a prompt is a list of messages."""
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(item, Mapping) for item in value)
