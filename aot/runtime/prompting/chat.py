"""Conversations: checking messages, and rendering them with the chat template of a checkpoint."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aot.errors import BundleError, InputError
from aot.runtime.prompting import parts

if TYPE_CHECKING:
    import jinja2

_LONGEST = 500  # characters of a reason that a template gives
_DEEPEST = 100  # lists and mappings in one another
_MESSAGES = "messages"
_CALLS = ("tool_calls", "function_call")


@dataclass(frozen=True)
class Template:
    """A chat template and the special tokens it may name, as `bos_token`."""

    source: str
    tokens: Mapping[str, str]
    where: str
    with_tools: str | None = None
    """The source for conversations with tools, where it is another one."""

    def spelled(self, variables: Mapping[str, Any]) -> str:
        """The source that renders a conversation with such variables."""
        return self.with_tools if self.with_tools and variables.get("tools") is not None else self.source

    def render(self, variables: Mapping[str, Any]) -> str:
        """The conversation `messages` as text that ends where the answer begins, as `transformers` renders it."""
        from aot.runtime.prompting import budget, rendering

        compiled = self._compiled(self.spelled(variables))
        defaults = {"tools": None, "documents": None, "add_generation_prompt": True, **self.tokens}
        try:
            with budget.budget_for(variables):
                return compiled.render({**defaults, **variables})
        except rendering.FAULTS as error:
            raise BundleError(
                f"{self.where}: the chat template is at fault: {_one_line(error)}; get another, or rebuild without it"
            ) from error
        except Exception as error:  # a template is a program: besides its own errors it can raise any of Python's
            raise InputError(f"conversation: the chat template refuses it: {_one_line(error)}") from error

    def check(self) -> None:
        """Raises BundleError where jinja2 cannot read it."""
        for source in filter(None, (self.source, self.with_tools)):
            self._compiled(source)

    def _compiled(self, source: str) -> "jinja2.Template":
        try:
            return _parsed(source)
        except Exception as error:  # besides a syntax error, jinja2 passes on what Python's compiler raises
            raise BundleError(f"{self.where}: the chat template does not parse: {_one_line(error)}; rebuild") from error


@functools.lru_cache(maxsize=16)
def _parsed(source: str) -> "jinja2.Template":
    from aot.runtime.prompting import rendering

    return rendering.template_environment().from_string(source)


def _one_line(error: Exception) -> str:
    return " ".join(str(error)[:_LONGEST].split()) or type(error).__name__


def template_variables(given: Mapping[str, Any] | None, messages: Any) -> dict[str, Any]:
    """What a template is rendered with: a copy made of plain JSON values. Raises InputError for anything else."""
    if given is not None and not (isinstance(given, Mapping) and all(isinstance(name, str) for name in given)):
        raise InputError(f"template: must be a mapping of names to JSON values, got {given!r:.80}")
    if _MESSAGES in (given or ()):
        raise InputError(f"template: {_MESSAGES!r} are the conversation itself; give them as the prompt")
    plain = {name: _plain(value, f"template: {name}") for name, value in (given or {}).items()}
    return {_MESSAGES: checked_conversation(messages), **plain}


def checked_conversation(messages: Any) -> list[dict[str, Any]]:
    """A copy of the conversation made of plain JSON values, without names whose value is None."""
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise InputError(f"conversation: must be a list of at least one message, got {messages!r}")
    return [_message(message, f"conversation: message {place}") for place, message in enumerate(messages, 1)]


def _message(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InputError(f"{place}: must be a mapping with 'role' and 'content', got {message!r}")
    calls = any(message.get(name) for name in _CALLS)  # beside which clients write null, or nothing
    for name in ("role",) if calls else ("role", "content"):
        if name not in message:
            raise InputError(f"{place}: has no {name!r}, only {', '.join(map(repr, message)) or 'nothing'}; add it")
    if not isinstance(message["role"], str):
        raise InputError(f"{place}: role must be a string, got {message['role']!r}")
    if not (calls and message.get("content") is None):
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


def _plain(value: Any, place: str, depth: int = 0) -> object:
    if depth > _DEEPEST:
        raise InputError(f"{place}: is nested too deep, in more than {_DEEPEST} lists or mappings; give flatter values")
    if isinstance(value, Mapping):
        return {str(name): _plain(item, place, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, place, depth + 1) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise InputError(f"{place}: values must be JSON, got {value!r:.80}")


_FILES = {
    "default": ("chat_template.default.jinja", "chat_template.jinja"),
    "tool_use": ("chat_template.tool_use.jinja",),
}
"""Files with a template alone, by its name."""


def find_templates(texts: Mapping[str, str], config: Mapping[str, Any], legacy: Mapping[str, Any]) -> dict[str, str]:
    """Sources of templates by name.

    Files with one alone speak first, then `chat_template.json`, which is a processor's, then `tokenizer_config.json`.
    """
    declared = legacy.get("chat_template") or config.get("chat_template")
    if isinstance(declared, list):
        declared = {
            item["name"]: item.get("template")
            for item in declared
            if isinstance(item, dict) and isinstance(item.get("name"), str)
        }
    if not isinstance(declared, dict):
        declared = {"default": declared}
    files = {name: texts[file] for name, choices in _FILES.items() for file in choices[::-1] if file in texts}
    named = files if "default" in files else {**declared, **files}
    return {name: source for name, source in named.items() if isinstance(source, str)}


def named_tokens(config: Mapping[str, Any], legacy: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that a template may name; `special_tokens_map.json` speaks where the newer list is absent."""
    source = config if "added_tokens_decoder" in config else {**config, **legacy}
    extra = source.get("extra_special_tokens")
    declared = {**source, **extra} if isinstance(extra, dict) else source
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in declared.items()}
    return {name: text for name, text in texts.items() if name.endswith("_token") and isinstance(text, str)}


def special_names(config: Mapping[str, Any], legacy: Mapping[str, Any]) -> set[str]:
    """The tokens that these files name as special: those that a template may name, and lists of further ones."""
    source = config if "added_tokens_decoder" in config else {**config, **legacy}
    lists = [source.get(name) for name in ("additional_special_tokens", "extra_special_tokens")]
    further = [item for items in lists if isinstance(items, list) for item in items]
    texts = [item.get("content") if isinstance(item, dict) else item for item in further]
    return {*named_tokens(config, legacy).values(), *(text for text in texts if isinstance(text, str))}
