"""Text: between strings and token ids, whole and as a stream, with the tokenizer and chat template of a bundle."""

import functools
import itertools
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aot import nesting
from aot.errors import BundleError, InputError
from aot.runtime.prompting import chat, guard, vocabulary
from aot.runtime.prompting.stopping import MatchedLengths, Stops

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_HALF = "\ufffd"
_TAIL = 32  # tokens of a prompt that are looked at: a few give text
_MOST_CHARACTERS = 1 << 22  # of a prompt: beyond that the regular expressions of common tokenizers give up


class TextTokenizer:
    """A tokenizer with its chat template, special tokens and text from users kept apart.

    Text that would have become a special token, or one of the `reserved` ids, is encoded by a twin in which those
    tokens have secret names. The twin is built when it is first needed. May be used from several threads.
    """

    def __init__(
        self, tokenizer: "Tokenizer", template: chat.Template | None, where: str, reserved: Collection[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._where = where
        special = vocabulary.special_tokens(tokenizer)
        self._special = frozenset(special.values())
        self._guard = guard.Guard(
            vocabulary.guarded_tokens({**special, **vocabulary.added_tokens(tokenizer, reserved)})
        )
        self._guarded = frozenset(self._guard.names.values())
        stages = vocabulary.decoder_stages(tokenizer)
        self._has_byte_pieces = any(stage["type"] == "ByteFallback" for stage in stages)
        self.is_steady = vocabulary.is_steady(stages)

    @classmethod
    def from_files(
        cls, files: Mapping[str, bytes], where: str, reserved: Collection[int] = (), ends: Collection[int] = ()
    ) -> "TextTokenizer":
        """The text of a bundle's tokenizer files by name; only `tokenizer.json` must be there.

        Added tokens among those that end a text are special, whether the tokenizer says so or not.
        """
        if "tokenizer.json" not in files:
            raise BundleError(
                f"{where}: has no tokenizer.json, only {sorted(files)}; rebuild from a checkpoint with one"
            )
        config = _mapping(files, "tokenizer_config.json", where)
        legacy = _mapping(files, "special_tokens_map.json", where)
        tokenizer, declared = (
            vocabulary.read_tokenizer(files["tokenizer.json"], where),
            vocabulary.declared_tokens(config, where),
        )
        ending = {token.content for id, token in declared.items() if id in ends} | {
            *vocabulary.added_tokens(tokenizer, ends)
        }
        vocabulary.complete_vocabulary(tokenizer, declared, ending | chat.special_names(config, legacy), where)
        template = _template(files, config, chat.named_tokens(config, legacy), where)
        return cls(tokenizer, template, where, reserved)

    @property
    def has_template(self) -> bool:
        """Whether it takes conversations."""
        return self._template is not None

    def check(self) -> None:
        """Raises BundleError where the chat template cannot be read."""
        if self._template is not None:
            self._template.check()

    def encode(self, text: str, first: Sequence[int] = ()) -> list[int]:
        """Token ids of a prompt, with what the tokenizer itself adds around it; `first` stands before the text."""
        if not isinstance(text, str):
            raise InputError(f"prompt: must be a string, got {text!r}")
        encoding = _encoded(self._tokenizer, text, True, "prompt")
        spelled = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
        if any(id in self._guarded and not added for id, added in spelled):
            encoding = _encoded(self._twin[0], text, True, "prompt")
        mask = encoding.special_tokens_mask  # 1 for what the tokenizer adds
        begin = mask.index(0) if 0 in mask else len(mask)
        return [*encoding.ids[:begin], *first, *encoding.ids[begin:]]

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Token ids of a conversation, up to where the answer begins, with no special tokens but the template's.

        `variables` are what the template takes beside the conversation, such as `tools`.
        """
        if self._template is None:
            raise InputError(f"conversation: {self._where} has no chat template; give the prompt as a string")
        given = chat.template_variables(variables, messages)
        hidden, stand_ins = self._guard.hidden(given, self._template.spelled(given))
        rendered = self._template.render(hidden)
        if hidden == given:
            ids = list(_encoded(self._tokenizer, rendered, False, "conversation").ids)
            expected = [self._guard.names[name] for name in self._guard.pattern.findall(rendered)]
            if [id for id in ids if id in self._guarded] == expected:
                return ids
        twin, names = self._twin
        secret = stand_ins.restored(self._guard.pattern.sub(lambda found: names[found[0]], rendered))
        return list(_encoded(twin, secret, False, "conversation").ids)

    @functools.cached_property
    def _twin(self) -> "tuple[Tokenizer, dict[str, str]]":
        return vocabulary.guarded_twin(self._tokenizer, dict(self._guard.names), self._where)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some tokens, special ones and those outside the vocabulary left out."""
        known = [int(id) for id in ids if id >= 0]
        if not known:
            return ""
        try:
            return str(vocabulary.try_step(lambda: self._tokenizer.decode(known, skip_special_tokens=True)))
        except vocabulary.PanicError as error:
            raise BundleError(f"{self._where}: the tokenizer cannot decode ({error}); rebuild") from error

    def tail(self, ids: Sequence[int]) -> list[int]:
        """The last tokens of a prompt, as many as decide how the text of those behind them begins."""
        seen = [*itertools.islice(filter(self.is_visible, reversed(ids)), _TAIL)][::-1]
        run = [*itertools.takewhile(self.is_byte, reversed(seen))]
        if run and len(run) < len(seen) and _HALF not in self.decode(run[::-1]):
            seen = seen[: -len(run)]  # a run of bytes that is text must stay so, whatever follows it
        for begin in range(len(seen) - 1, -1, -1):
            if (text := self.decode(seen[begin:])) and not text.startswith(_HALF):
                return seen[begin:]
        return seen

    def is_visible(self, id: int) -> bool:
        """Whether a token takes part in decoding."""
        return id >= 0 and id not in self._special and self._tokenizer.id_to_token(id) is not None

    def is_byte(self, id: int) -> bool:
        """Whether a token is one byte of a run, such as `<0xE4>`: the run is text if all of it is UTF-8, else none."""
        return self._has_byte_pieces and _BYTE_PIECE.fullmatch(self._tokenizer.id_to_token(id) or "") is not None


class Stream:
    """The text of one generation, handed out as its tokens come.

    The pieces together are what the first `count` tokens add to the text of the prompt `behind` which they stand, cut
    before the first stop string in it. No piece ends in half a character or in what may be the beginning of a stop
    string.
    """

    def __init__(self, text: TextTokenizer, stop: Sequence[str] = (), behind: Sequence[int] = ()) -> None:
        self.stopped = False
        """Whether a stop string was found; tokens after it are dropped."""
        self.count = 0
        """Tokens taken, the one that completed a stop string included."""
        self._text = text
        self._stops = Stops(stop)
        self._matched = self._stops.start  # by the text until the end of `_held`
        self._window = text.tail(behind)  # the last tokens: all that decoding the next ones can depend on
        self._context = len(self._window)  # how many of them are there only so that no other token is the first
        # how many characters of the window's text are in `_held` or given out; half a one is not the prompt's alone
        self._done = len(text.decode(self._window).rstrip(_HALF))
        self._held = ""  # settled, but perhaps the beginning of a stop string

    def feed(self, ids: Iterable[int]) -> str:
        """Takes further tokens and gives the text that has become final."""
        pieces = []
        for id in map(int, ids):
            if self.stopped:
                break
            self.count += 1
            if self._text.is_visible(id):  # others must not separate two bytes of a character
                pieces.append(self._take(id))
        return "".join(pieces)

    def flush(self) -> str:
        """The text that was held back; call it at the end of the generation."""
        whole = self._text.decode(self._window)
        piece = whole[self._done :] if self._window[self._context :] else ""
        rest = piece if self.stopped else self._until_stop(piece)[0]
        self._held, self._done = "", len(whole)
        return rest

    def _take(self, id: int) -> str:
        self._window.append(id)
        whole = self._text.decode(self._window)
        settled = whole.rstrip(_HALF)[self._done :]
        candidate, matched = self._until_stop(settled)
        if self.stopped:
            self._held, self._done = "", len(whole)
            return candidate
        if not self._text.is_steady or self._text.is_byte(id):
            return ""
        self._done, self._matched = self._done + len(settled), matched
        if self._done == len(whole):
            self._advance()
        final = len(candidate) - max(matched, default=0)
        self._held = candidate[final:]
        return candidate[:final]

    def _until_stop(self, piece: str) -> tuple[str, MatchedLengths]:
        """What is held with a further piece, cut before the first stop string in it, and what all of that matches."""
        matched, begin = self._stops.read(self._matched, piece)
        self.stopped = begin is not None
        return (self._held + piece)[: None if begin is None else len(self._held) + begin], matched

    def _advance(self) -> None:
        # Text depends on earlier tokens only where it begins (a leading space is dropped). So once the newest tokens
        # give text by themselves, what follows them follows it in the same way, and the older ones can go.
        newest = self._window[self._context :]
        if text := self._text.decode(newest):
            self._window, self._context, self._done = newest, len(newest), len(text)


def _encoded(tokenizer: "Tokenizer", text: str, add_special_tokens: bool, place: str) -> "Encoding":
    if len(text) > _MOST_CHARACTERS:
        raise InputError(f"{place}: has {len(text)} characters, above the limit of {_MOST_CHARACTERS}; give less text")
    try:
        text.encode()
        return vocabulary.try_step(lambda: tokenizer.encode(text, add_special_tokens=add_special_tokens))
    except UnicodeEncodeError as error:
        raise InputError(f"{place}: is no Unicode text: {text[error.start]!r} at character {error.start}") from error
    except Exception as error:  # the library's own are bare: a vocabulary without an unknown token, for one
        raise InputError(f"{place}: the tokenizer cannot encode it: {' '.join(str(error).split())}") from error


def _template(
    files: Mapping[str, bytes], config: Mapping[str, Any], tokens: Mapping[str, str], where: str
) -> chat.Template | None:
    texts = {name: _string(files, name, where) or "" for name in files if name.endswith(".jinja")}
    sources = chat.find_templates(texts, config, _mapping(files, "chat_template.json", where))
    if "default" not in sources:
        return None
    return chat.Template(sources["default"], tokens, where, sources.get("tool_use"))


def _string(files: Mapping[str, bytes], name: str, where: str) -> str | None:
    try:
        return files[name].decode() if name in files else None
    except UnicodeDecodeError as error:
        raise BundleError(f"{where}: {name} is damaged ({error}); fetch it again or rebuild") from error


def _mapping(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(_string(files, name, where) or "{}")
        nesting.check_nesting(value)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: {name} is damaged ({error}); fetch it again or rebuild") from error
    if not isinstance(value, dict):
        raise BundleError(f"{where}: {name} must hold an object, found {type(value).__name__}; rebuild")
    return value
