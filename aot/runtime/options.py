"""Options of a call of generate or stream, checked, and how a type checker and an editor know them."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypedDict

import numpy as np

from aot import digest
from aot.bundle.index.records import GenerationRecord
from aot.errors import InputError, shown
from aot.sampling import SamplingParams, params_of, restrictions_of

Several = Literal[2, 3, 4, 5, 6, 7, 8]
"""Numbers of sequences that a type checker can tell from one: it knows no integer above 1."""


class GenerateOptions(TypedDict, total=False):
    """Options by name, but `n`, on which it depends what generate gives; see RequestOptions and SamplingParams.

    None is the bundle's default.
    """

    max_new_tokens: int | None
    seed: int | Sequence[int] | None
    stop: str | Sequence[str] | None
    eos_token_id: int | Sequence[int] | None
    truncate: bool
    props: Mapping[str, Any] | None
    template: Mapping[str, Any] | None
    images: Sequence[Any] | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None


_SEED_LIMIT = 1 << 64
_DRAWN_BITS = 53  # what a double holds: results go through JSON, whose numbers most readers take for doubles
_WORD = 1 << 31  # programs take int32


@dataclass(frozen=True)
class RequestOptions:
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
    def of(cls, given: Mapping[str, Any]) -> "RequestOptions":
        """Options from keyword arguments, in which sampling fields stand beside the others."""
        names = {f.name for f in fields(cls)} - {"sampling"}
        drawing = {f.name for f in fields(SamplingParams)}
        if unknown := sorted(set(given) - names - drawing):
            raise InputError(f"request: unknown option {unknown[0]!r}; known are {', '.join(sorted(names | drawing))}")
        sampling: dict[str, Any] = {
            name: _plain(value) for name, value in given.items() if name in drawing and value is not None
        }
        return cls(**{name: value for name, value in given.items() if name in names}, sampling=sampling)

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "n"):
            value = getattr(self, name)
            if value is not None and not (is_whole(value) and 1 <= value < _WORD):
                raise InputError(f"request: {name} must be an integer of at least 1, got {shown(value)}")
            object.__setattr__(self, name, _plain(value))  # numpy's small integers overflow in sums
        if not all(is_whole(seed) and 0 <= seed < _SEED_LIMIT for seed in _listed(self.seed)):
            raise InputError(f"request: seed must be an integer from 0 to 2**64 - 1 or a list, got {shown(self.seed)}")
        if not all(is_whole(id) and -1 <= id < _WORD for id in _listed(self.eos_token_id)):
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
        if is_whole(self.seed):
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


def _plain(value: object) -> object:
    """A number of numpy as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _listed(value: Any) -> tuple[Any, ...]:
    """The items of a list, the one that stands for a list of one, or none of None; a wrong value as an item."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) or np.ndim(value) == 1 else (value,)


def is_whole(value: Any) -> bool:
    """Whether a value is an integer, numpy's included, and no bool."""
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
