"""What `aot run` is asked: prompts of the command line, of files and of stdin."""

import json
import sys
from pathlib import Path
from typing import Any

from aot import nesting
from aot.errors import InputError

_STDIN = "-"


def text_given(given: str) -> str:
    """A text, or that of stdin where it is `-`. Raises InputError where there is none."""
    if given != _STDIN:
        return given
    if not (found := piped_text()):
        raise InputError("stdin: has no text; pipe some into it, or give it as TEXT")
    return found


def piped_text() -> str:
    """The text on stdin, without the line break at its end; empty where nothing was piped there."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"stdin: is not UTF-8 at byte {error.start}; convert it") from error
    except OSError:  # closed
        return ""


def read_conversation(path: Path) -> list[dict[str, Any]]:
    """The messages in a file of JSON, or on stdin: a list of them, or an object that has it as `messages`."""
    try:
        data = sys.stdin.buffer.read() if str(path) == _STDIN else path.read_bytes()
        found = json.loads(data)
        nesting.check_nesting(found)
    except OSError as error:
        raise InputError(f"--chat {path}: {error.strerror}; give a file with a conversation") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"--chat {path}: is not JSON ({error}); give a list of messages") from error
    messages = found.get("messages") if isinstance(found, dict) else found
    if not (isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages)):
        raise InputError(f'--chat {path}: must be a list of messages as {{"role": "user", "content": "…"}}')
    return messages


def parse_ids(given: str) -> list[int]:
    """Token ids with commas between."""
    try:
        return [int(token) for token in given.split(",")]
    except ValueError:
        raise InputError(f"--prompt-ids: must be integers with commas between, got {given!r}") from None


def parse_template_arguments(given: tuple[str, ...]) -> dict[str, Any]:
    """The values of --template-arg by name."""
    made: dict[str, Any] = {}
    for argument in given:
        name, equals, value = argument.partition("=")
        if not (name and equals):
            raise InputError(f"--template-arg: must be NAME=JSON, got {argument!r:.80}")
        if name in made:
            raise InputError(f"--template-arg: {name!r} is given twice; give it once")
        try:
            made[name] = json.loads(value)
            nesting.check_nesting(made[name])
        except (ValueError, RecursionError) as error:
            raise InputError(f"--template-arg {name}: is not JSON ({error}); write false, 3 or '\"text\"'") from None
    return made
