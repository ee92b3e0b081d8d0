"""What a caller asks for, checked and spelled out: prompts as token ids and pixels, options with their defaults."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aot import digest
from aot.bundle.index.records import GenerationRecord
from aot.errors import InputError, shown
from aot.sampling import SamplingParams, params_of, restrictions_of
from aot.vision import Size

if TYPE_CHECKING:
    from aot.runtime.prompting.text import Text

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
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


_SEED_LIMIT = 1 << 64
_DRAWN_BITS = 53  # what a double holds: results go through JSON, whose numbers most readers take for doubles
_WORD = 1 << 31  # programs take int32

MOST_SEQUENCES = 1 << 16
"""Sequences of one call, unless it has more prompts."""


@dataclass(frozen=True)
class Options:
    """Options of one call of generate or stream; None means the bundle's default.

    Raises InputError for a value out of its range.
    """

    max_new_tokens: int | None = None
    n: int | None = None
    """Sequences for each prompt."""
    seed: int | Sequence[int] | None = None
    """One for every prompt alike, or one for each; None draws one for each prompt, which its results tell."""
    stop: str | Sequence[str] | None = None
    """A sequence ends before the first of these texts; [] where none is to end it."""
    eos_token_id: int | Sequence[int] | None = None
    """Ids that end a sequence; no more of them than the bundle was built for, or one. [] or -1: none does."""
    truncate: bool = False
    """Keeps the last tokens of a prompt that fits no entry, rather than refusing it."""
    props: Mapping[str, Any] | None = None
    """The `required_props` of the entries to use."""
    template: Mapping[str, Any] | None = None
    """What the chat template takes beside a conversation: `tools`, `documents`, `enable_thinking` and the like."""
    images: Sequence[Any] | None = field(default=None, repr=False, compare=False)
    """Pictures beside a single prompt, or for a list of prompts a list of such lists; see `aot.runtime.prompting`."""
    sampling: Mapping[str, float] = field(default_factory=dict)
    """Fields of SamplingParams that differ from the bundle's defaults."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Options":
        """Options from keyword arguments, in which sampling fields stand beside the others."""
        names = {f.name for f in fields(cls)} - {"sampling"}
        drawing = {f.name for f in fields(SamplingParams)}
        if unknown := sorted(set(given) - names - drawing):
            raise InputError(f"request: unknown option {unknown[0]!r}; known are {', '.join(sorted(names | drawing))}")
        sampling = {name: _plain(value) for name, value in given.items() if name in drawing and value is not None}
        return cls(**{name: value for name, value in given.items() if name in names}, sampling=sampling)

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "n"):
            value = getattr(self, name)
            if value is not None and not (_is_whole(value) and 1 <= value < _WORD):
                raise InputError(f"request: {name} must be an integer of at least 1, got {shown(value)}")
            object.__setattr__(self, name, _plain(value))  # numpy's small integers overflow in sums
        if not all(_is_whole(seed) and 0 <= seed < _SEED_LIMIT for seed in _listed(self.seed)):
            raise InputError(f"request: seed must be an integer from 0 to 2**64 - 1 or a list, got {shown(self.seed)}")
        if not all(_is_whole(id) and -1 <= id < _WORD for id in _listed(self.eos_token_id)):
            raise InputError(f"request: eos_token_id must be a token id or a list, got {shown(self.eos_token_id)}")
        if not isinstance(self.stop, str | list | tuple | None):
            raise InputError(f"request: stop must be a text or a list of texts, got {shown(self.stop)}")
        if type(self.truncate) is not bool:
            raise InputError(f"request: truncate must be True or False, got {shown(self.truncate)}")
        _check_props(self.props)
        if not (self.template is None or isinstance(self.template, Mapping)):
            raise InputError(f"request: template must be a mapping of names to JSON values, got {self.template!r:.80}")

    def stops(self, defaults: GenerationRecord) -> tuple[str, ...]:
        """The stop strings: those given, else those of the bundle."""
        if self.stop is None:
            return restrictions_of(defaults.sampling).stop
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids that end a sequence, where the caller gave them."""
        return tuple(int(id) for id in _listed(self.eos_token_id) if id >= 0)

    def seeds(self, prompts: int, draw: Callable[[int], int] = secrets.randbits) -> list[int]:
        """The seed of each prompt; `draw` gives so many random bits."""
        if self.seed is None:
            return [draw(_DRAWN_BITS) for _ in range(prompts)]
        seeds = [int(seed) for seed in _listed(self.seed)]
        if _is_whole(self.seed):
            return seeds * prompts
        if len(seeds) != prompts:
            raise InputError(f"request: {len(seeds)} seeds for {prompts} prompts; give one for all, or one for each")
        return seeds

    def beside(self, prompts: int, single: bool) -> Sequence[Sequence[Any]]:
        """The images that come beside each prompt."""
        if self.images is None:
            return [()] * prompts
        images = [self.images] if single else self.images
        if not (isinstance(images, list | tuple) and all(isinstance(each, list | tuple) for each in images)):
            wanted = "a list" if single else "a list with a list for each prompt"
            raise InputError(f"request: images must be {wanted}, got {_kind(self.images)}")
        if len(images) != prompts:
            raise InputError(f"request: {len(images)} lists of images for {prompts} prompts; give one for each")
        return images

    def params(self, defaults: GenerationRecord) -> SamplingParams:
        """How tokens are drawn."""
        return replace(params_of(defaults.sampling), **self.sampling)  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    """A number of numpy as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _listed(value: Any) -> tuple[Any, ...]:
    """The items of a list, the one that stands for a list of one, or none of None; a wrong value as an item."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) or np.ndim(value) == 1 else (value,)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    """What something is, in a word or, for a list, what is in it too."""
    name = type(value).__name__
    return (
        f"{name} of {', '.join(sorted({type(item).__name__ for item in value}))}" if isinstance(value, list) else name
    )


def _check_props(props: Any) -> None:
    if props is None:
        return
    try:
        digest.canonical_json(dict(props))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"request: props must be a mapping of names to JSON values ({error})") from error


def prompts(given: Prompt | Sequence[Prompt]) -> tuple[list[Prompt], bool]:
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


def tokens(
    prompt: Prompt,
    position: int,
    tokenizer: "Callable[[], Text | None]",
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
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(_is_whole, value))


def is_conversation(value: Any) -> bool:
    """Whether a prompt is a list of messages."""
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(item, Mapping) for item in value)
