"""The tokenizer of a bundle: reading it, what its decoder does, and a twin whose special tokens no text can spell."""

import json
import math
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

from aot.errors import BundleError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

_T = TypeVar("_T")
_TRIAL = "A word, 12 more: größer\n\t 你好 🦊 "
"""Text of many kinds, by which a tokenizer is tried when it is read."""
_LONGEST, _MOST_CHARACTERS = 256, 1 << 20  # of the names of special tokens
_MOST_STEPS, _MOST_GROWTH = 64, 1 << 10  # before, around and behind the model; that of T5 makes 48 bytes of one
_GROWTH = {"ByteLevel": 2, "Metaspace": 3, "NFD": 3, "NFKC": 4, "NFKD": 4, "Precompiled": 4}
"""Times as many bytes as a text had, that it has behind a step of a tokenizer; of others once, or by what they say."""


class PanicError(Exception):
    """A fault inside the tokenizer library, which it had not foreseen."""


def try_step(step: Callable[[], _T]) -> _T:
    """What a call of the library gives. Raises PanicError where it panics, beside what it raises itself."""
    try:
        return step()
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # which is no Exception, and no class that can be imported
            raise
        raise PanicError(" ".join(str(error).split())) from error


def read_tokenizer(data: bytes, where: str) -> "Tokenizer":
    """The tokenizer that a `tokenizer.json` describes, without its truncation and padding, once it has been tried."""
    from tokenizers import Tokenizer

    try:
        tokenizer = try_step(lambda: Tokenizer.from_buffer(data))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        _check_names(tokenizer)
        _check_steps(tokenizer)
        _try(tokenizer)
    except Exception as error:  # the library raises ValueError, TypeError and bare Exception for what it cannot read
        what = f"cannot be read by tokenizers {version('tokenizers')}" if _is_described(data) else "is damaged"
        reason = " ".join(str(error).split())
        raise BundleError(f"{where}: tokenizer.json {what} ({reason}); fetch it again or rebuild") from error
    return tokenizer


def _is_described(data: bytes) -> bool:
    """Whether the bytes describe a tokenizer, perhaps one of a later kind."""
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False


def _check_names(tokenizer: "Tokenizer") -> None:
    """Raises ValueError for special tokens so long that keeping text from spelling them would take all memory."""
    lengths = [len(name) for name in special_tokens(tokenizer)]
    if max(lengths, default=0) > _LONGEST or sum(lengths) > _MOST_CHARACTERS:
        raise ValueError(
            f"special tokens of up to {max(lengths)} characters, {sum(lengths)} together, above the limits of "
            f"{_LONGEST} and {_MOST_CHARACTERS}"
        )


def _check_steps(tokenizer: "Tokenizer") -> None:
    """Raises ValueError for a tokenizer whose steps, each by itself a small one, multiply a text beyond all bounds."""
    for part in (("normalizer", "pre_tokenizer"), ("post_processor",), ("decoder",)):
        held = [step for name in part if (step := getattr(tokenizer, name)) is not None]
        steps = [each for step in held for each in _steps(json.loads(step.__getstate__()))]
        growth = math.prod(map(_growth, steps))
        if len(steps) > _MOST_STEPS or growth > _MOST_GROWTH:
            raise ValueError(
                f"{' and '.join(part)} of {len(steps)} steps, which make a text {growth:.3g} times as long, "
                f"above the limits of {_MOST_STEPS} and {_MOST_GROWTH}"
            )


def _steps(described: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The steps that a part of a tokenizer consists of, those of sequences in it as well."""
    if described["type"] != "Sequence":
        yield described
        return
    for step in next(value for value in described.values() if isinstance(value, list)):
        yield from _steps(step)


def _growth(step: Mapping[str, Any]) -> float:
    """How many times as long a step of a tokenizer may make a text."""
    if step["type"] == "Replace":
        shortest = step["pattern"].get("String", "")  # what a regular expression matches may be empty
        return max(1, len(step["content"].encode()) / max(1, len(shortest.encode())))
    if step["type"] == "Prepend":
        return max(1, len(step["prepend"].encode()))
    return _GROWTH.get(step["type"], 1)


def _try(tokenizer: "Tokenizer") -> None:
    """Raises PanicError for a tokenizer that panics on ordinary text, or on its own tokens."""
    ids = [0, tokenizer.get_vocab_size() - 1]
    for step in (lambda: tokenizer.encode(_TRIAL), lambda: tokenizer.decode(ids)):
        try:
            try_step(step)
        except PanicError:
            raise
        except Exception:
            continue  # it may know of no token for such text, and need none


def special_tokens(tokenizer: "Tokenizer") -> dict[str, int]:
    """Name to id of the tokens that are marked special."""
    added = tokenizer.get_added_tokens_decoder()
    return {token.content: id for id, token in sorted(added.items()) if token.special}


def added_tokens(tokenizer: "Tokenizer", ids: Collection[int]) -> dict[str, int]:
    """Name to id of those ids that are added tokens, which text may spell whether they are marked special or not."""
    return {token.content: id for id, token in sorted(tokenizer.get_added_tokens_decoder().items()) if id in ids}


def declared_tokens(config: Mapping[str, Any], where: str) -> "dict[int, AddedToken]":
    """The added tokens that a `tokenizer_config.json` describes, by id."""
    from tokenizers import AddedToken

    described = config.get("added_tokens_decoder") or {}
    try:
        fields = {int(id): {name: token[name] for name in _FLAGS if name in token} for id, token in described.items()}
        return {id: AddedToken(described[str(id)]["content"], **flags) for id, flags in sorted(fields.items())}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{where}: tokenizer_config.json: added_tokens_decoder is damaged ({error!r:.80}); fetch it again"
        ) from error


def complete_vocabulary(
    tokenizer: "Tokenizer", declared: "Mapping[int, AddedToken]", special: Collection[str], where: str
) -> None:
    """Adds the declared tokens that the tokenizer lacks, and marks as special what is named so.

    A special token of one character stays as it is, see `guarded_tokens`. Raises BundleError where a token cannot have
    its id.
    """
    held = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    missing = {token.content: id for id, token in declared.items() if tokenizer.token_to_id(token.content) is None}
    changed = {token.content: _marked(token, held.get(token.content), special) for token in declared.values()}
    for name in sorted(special):
        if name not in changed and tokenizer.token_to_id(name) is not None:
            changed[name] = _marked(held.get(name) or _plain(name), held.get(name), special)
    tokenizer.add_tokens([token for name, token in changed.items() if repr(token) != repr(held.get(name))])
    if wrong := [(name, id) for name, id in missing.items() if tokenizer.token_to_id(name) != id]:
        name, id = wrong[0]
        raise BundleError(
            f"{where}: tokenizer_config.json: the added token {name!r} is declared as {id}, in tokenizer.json the next "
            f"free id makes it {tokenizer.token_to_id(name)}; correct the files"
        )


_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


def _plain(name: str) -> "AddedToken":
    from tokenizers import AddedToken

    return AddedToken(name, normalized=False)


def _marked(token: "AddedToken", held: "AddedToken | None", special: Collection[str]) -> "AddedToken":
    """A token as it is declared, and special where anything says so."""
    from tokenizers import AddedToken

    flags = {name: getattr(token, name) for name in _FLAGS}
    is_named = token.content in special and len(token.content) > 1
    flags["special"] = token.special or is_named or (held is not None and held.special)
    return AddedToken(token.content, **flags)


def guarded_tokens(special: dict[str, int]) -> dict[str, int]:
    """The special tokens that text must not spell.

    Those of one character are left: some checkpoints declare a letter as their pad token, and it has no other spelling.
    """
    return {name: id for name, id in special.items() if len(name) > 1}


def guarded_twin(tokenizer: "Tokenizer", guarded: dict[str, int], where: str) -> tuple["Tokenizer", dict[str, str]]:
    """A tokenizer with its guarded tokens renamed beyond guessing, and the new name of each.

    `Tokenizer.encode_special_tokens` is not enough: it leaves the pieces in the model, and Unigram finds them there.
    """
    secret = secrets.token_hex(16)
    names = {name: f"<{secret}:{id}>" for name, id in guarded.items()}
    description = json.loads(tokenizer.to_str())
    for token in description["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    _rename(description["model"], names)
    return read_tokenizer(json.dumps(description).encode(), where), names


def _rename(model: dict[str, Any], names: dict[str, str]) -> None:
    model["unk_token"] = names.get(unk, unk) if (unk := model.get("unk_token")) else unk
    if isinstance(model["vocab"], list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        return
    if names.keys().isdisjoint(model["vocab"]):
        return
    model["vocab"] = {names.get(piece, piece): id for piece, id in model["vocab"].items()}
    if "merges" in model:
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [pair for pair in model["merges"] if names.keys().isdisjoint(_pieces(pair, prefix))]


def _pieces(pair: str | list[str], prefix: str) -> tuple[str, str, str]:
    left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
    return left, right, left + right.removeprefix(prefix)


def decoder_stages(tokenizer: "Tokenizer") -> list[dict[str, Any]]:
    """The steps that turn pieces into text, as `tokenizer.json` spells them."""
    if tokenizer.decoder is None:
        return []
    decoder: dict[str, Any] = json.loads(tokenizer.decoder.__getstate__())
    return list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]


def is_steady(stages: list[dict[str, Any]]) -> bool:
    """Whether a further token leaves the text of those before it as it is (half characters and byte pieces aside).

    Before the pieces are one string, every known step looks at one piece at a time and at whether it is the first or
    the last; afterwards a step is steady only if it looks at one character at a time or at the beginning.
    """
    fused = False
    for stage in stages:
        if not (_is_local(stage) if fused else stage["type"] in _PIECEWISE):
            return False
        fused = fused or stage["type"] in ("Fuse", "ByteLevel")
    return True


_PIECEWISE = ("ByteLevel", "Metaspace", "WordPiece", "BPEDecoder", "ByteFallback", "Replace", "Strip", "Fuse")


def _is_local(stage: dict[str, Any]) -> bool:
    if stage["type"] == "Strip":
        return bool(stage["stop"] == 0)
    return stage["type"] == "Fuse" or (stage["type"] == "Replace" and len(stage["pattern"].get("String", "")) == 1)
