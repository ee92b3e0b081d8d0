"""Token ids and sampling that a checkpoint's files name: generation_config.json, config.json, the tokenizer's files."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aot.errors import InputError
from aot.plan import generation_config
from aot.plan.files import Files
from aot.plan.manifests.manifest import Manifest
from aot.plan.plan import Plan
from aot.sampling import Restrictions, SamplingParams

_GENERATION = "generation_config.json"
_NAMING = ("tokenizer_config.json", "special_tokens_map.json")
"""The files of a tokenizer that name its special tokens, in the order in which they are asked."""


@dataclass(frozen=True)
class Sources:
    """Where to look: the files beside the configuration, its fields, the tokenizer's files, the vocabulary's size."""

    files: Files
    config: Mapping[str, Any]
    tokenizer: Files | None
    vocab_size: int

    def ids(self, name: str) -> tuple[int, ...]:
        """The ids that the first source with one names as `eos`, `pad` or `bos`; empty where none does."""
        return next((ids for ids in self._candidates(name) if ids), ())

    def _candidates(self, name: str) -> Iterator[tuple[int, ...]]:
        key = f"{name}_token_id"
        yield self.valid(self.files.json(_GENERATION).get(key), f"{self.files.directory / _GENERATION}: {key}")
        yield self.valid(self.config.get(key), f"config: {key}")
        if self.tokenizer is not None:
            yield self.valid(_named(self.tokenizer, f"{name}_token"), f"{self.tokenizer.directory}: {key}")

    def valid(self, value: Any, place: str) -> tuple[int, ...]:
        """The ids in what a file has at a place, each once: one, a list or null. Raises InputError for others."""
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if wrong := [item for item in ids if type(item) is not int]:
            raise InputError(f"{place}: must be a token id or a list of them, got {wrong[0]!r}; correct the file")
        # Checkpoints write -1, or an id beyond the vocabulary, for a token that the model does not have.
        return tuple(dict.fromkeys(item for item in ids if 0 <= item < self.vocab_size))

    def sampling(self, eos: Collection[int]) -> tuple[SamplingParams, Restrictions]:
        """What generation_config.json says of the drawing of tokens. Raises InputError for what is not followed."""
        config, place = self.files.json(_GENERATION), str(self.files.directory / _GENERATION)
        if not config:
            raise InputError(f"there is no {place}; write the options into the manifest")
        params = generation_config.params(config, place)
        restrictions = generation_config.restrictions(config, place, self.valid, eos)
        if restrictions.stop and self.tokenizer is None:
            raise InputError(
                f"{place}: stop_strings: need a tokenizer, and the checkpoint has none; add tokenizer.json"
            )
        return params, restrictions


def endings(manifest: Manifest, plan: Plan) -> tuple[str, ...]:
    """A line where the tokenizer names another EOS than the files do by which texts end."""
    if plan.generation is None or plan.model.tokenizer is None or manifest.content.generation.eos_token_id is not None:
        return ()
    own, ends = _named(Files(plan.model.tokenizer), "eos_token"), plan.generation.eos_token_id
    if own is None or own in ends:
        return ()
    found = ", ".join(map(str, ends)) or "none"
    return (f"generation.eos_token_id: {found} by the checkpoint's files, {own} by its tokenizer; say which end texts",)


def _named(tokenizer: Files, name: str) -> int | None:
    """The id of the token that a tokenizer's files name as `eos_token` or the like; None where they do not."""
    for file in _NAMING:
        token = tokenizer.json(file).get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str) and (found := _id(tokenizer, content)) is not None:
            return found
    return None


def _id(tokenizer: Files, content: str) -> int | None:
    """The id of a token: one that was added, or one of the vocabulary."""
    fields = tokenizer.json("tokenizer.json")
    added = fields.get("added_tokens")
    items = [item for item in added if isinstance(item, dict)] if isinstance(added, list) else []
    for item in items:
        if item.get("content") == content and type(item.get("id")) is int:
            return int(item["id"])
    decoder = tokenizer.json(_NAMING[0]).get("added_tokens_decoder")
    for id, item in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(item, dict) and item.get("content") == content and id.isdecimal():
            return int(id)
    return _of_vocabulary(fields.get("model"), content)


def _of_vocabulary(model: Any, content: str) -> int | None:
    """The id of a token in the vocabulary of a model: ids by token, or pairs of token and score in their order."""
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):
        pairs = (pair[0] if isinstance(pair, list) and pair else None for pair in vocabulary)
        return next((id for id, token in enumerate(pairs) if token == content), None)
    found = vocabulary.get(content) if isinstance(vocabulary, dict) else None
    return found if type(found) is int else None
