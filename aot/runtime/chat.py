"""Conversations: checking messages, and rendering them with the chat template of a checkpoint."""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from aot.errors import BundleError, InputError
from aot.runtime import parts

if TYPE_CHECKING:
    import jinja2

_PRIVATE_USE = range(0xE000, 0xF900)


@dataclass(frozen=True)
class Template:
    """A chat template and the special tokens it may name, as `bos_token`."""

    source: str
    tokens: Mapping[str, str]
    where: str

    def render(self, messages: list[dict[str, Any]]) -> str:
        """The conversation as text that ends where the answer begins, as `transformers` renders it."""
        compiled = self._compiled
        try:
            return compiled.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **self.tokens
            )
        except Exception as error:  # a template is a program: besides its own errors it can raise any of Python's
            raise InputError(f"conversation: the chat template refuses it: {_one_line(error)}") from error

    @functools.cached_property
    def _compiled(self) -> "jinja2.Template":
        try:
            return _environment().from_string(self.source)
        except Exception as error:  # besides a syntax error, jinja2 passes on what Python's compiler raises
            raise BundleError(f"{self.where}: the chat template does not parse: {_one_line(error)}; rebuild") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@functools.cache
def _environment() -> "jinja2.Environment":
    """The environment that chat templates are written for: sandboxed, with the names `transformers` gives them."""
    from jinja2 import ext, nodes, parser, sandbox

    class Generation(ext.Extension):
        """`{% generation %}` … `{% endgeneration %}`, which marks answers for training, as a plain block."""

        tags = {"generation"}  # noqa: RUF012, jinja2 declares it so

        def parse(self, parser: parser.Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # jinja2's own filter escapes HTML
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)


def checked(messages: Any) -> list[dict[str, Any]]:
    """A copy of the conversation made of plain JSON values, without names whose value is None."""
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise InputError(f"conversation: must be a list of at least one message, got {messages!r}")
    return [_message(message, f"conversation: message {place}") for place, message in enumerate(messages, 1)]


def _message(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InputError(f"{place}: must be a mapping with 'role' and 'content', got {message!r}")
    for name in ("role", "content"):
        if name not in message:
            raise InputError(f"{place}: has no {name!r}, only {', '.join(map(repr, message)) or 'nothing'}; add it")
    if not isinstance(message["role"], str):
        raise InputError(f"{place}: role must be a string, got {message['role']!r}")
    _check_content(message["content"], place)
    return {str(name): _plain(value, place) for name, value in message.items() if value is not None}


def _check_content(content: Any, place: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, (list, tuple)):
        raise InputError(f"{place}: content must be a string or a list of parts, got {content!r:.80}")
    for part in content:
        is_text = isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
        if not is_text and part != parts.PLACE:
            raise InputError(
                f"{place}: parts of content must be {{'type': 'text', 'text': string}} or images, got {part!r:.80}"
            )


def _plain(value: Any, place: str) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item, place) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, place) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise InputError(f"{place}: values must be JSON, got {value!r}")


@dataclass(frozen=True)
class Guard:
    """Finds names of special tokens in text, and breaks those that a conversation spells."""

    names: Mapping[str, int]

    def broken(self, messages: list[dict[str, Any]], template: str) -> tuple[list[dict[str, Any]], str]:
        """The conversation with a mark inside each name that it spells, and the mark, which occurs nowhere else.

        A mark also follows a string that ends as a name begins, lest the next string complete it. Words and digits
        are left there: a template compares them (`role == 'user'`).
        """
        taken = template + json.dumps(messages, ensure_ascii=False)
        mark = next((chr(code) for code in _PRIVATE_USE if chr(code) not in taken), None)
        if mark is None:
            raise InputError("conversation: uses every private-use character from U+E000 to U+F8FF; leave one out")
        broken = _mapped(messages, lambda text, is_value: self._break(text, mark, is_value))
        return broken, mark

    def _break(self, text: str, mark: str, is_value: bool) -> str:
        broken = self.pattern.sub(lambda found: "".join(character + mark for character in found[0]), text)
        return broken + mark if is_value and text.endswith(self._beginnings) else broken

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the longest name at each place, as the tokenizer does."""
        longest_first = sorted(self.names, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    @functools.cached_property
    def _beginnings(self) -> tuple[str, ...]:
        beginnings = {name[:length] for name in self.names for length in range(1, len(name))}
        return tuple(sorted(text for text in beginnings if not text.isalnum()))


def _mapped(value: Any, change: Callable[[str, bool], str]) -> Any:
    if isinstance(value, str):
        return change(value, True)
    if isinstance(value, dict):
        return {change(name, False): _mapped(item, change) for name, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return value


def find(jinja: str | None, config: Mapping[str, Any]) -> str | None:
    """The template's source: the file of its own, else what `tokenizer_config.json` declares, the one named default."""
    declared = config.get("chat_template") if jinja is None else jinja
    if isinstance(declared, list):
        named = [item for item in declared if isinstance(item, dict) and isinstance(item.get("name"), str)]
        declared = {item["name"]: item.get("template") for item in named}
    if isinstance(declared, dict):
        declared = declared.get("default")
    return declared if isinstance(declared, str) else None


def named_tokens(config: Mapping[str, Any], legacy: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that a template may name; `special_tokens_map.json` speaks where the newer list is absent."""
    source = config if "added_tokens_decoder" in config else {**config, **legacy}
    extra = source.get("extra_special_tokens")
    declared = {**source, **extra} if isinstance(extra, dict) else source
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in declared.items()}
    return {name: text for name, text in texts.items() if name.endswith("_token") and isinstance(text, str)}
