"""Names of special tokens in what users write: found, and hidden where a chat template would make tokens of them."""

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aot.errors import InputError

_PRIVATE_USE = range(0xE000, 0xF900)


@dataclass(frozen=True)
class Guard:
    """Finds names of special tokens in text, and hides those that a conversation spells."""

    names: Mapping[str, int]

    def hidden(self, given: dict[str, Any], template: str) -> tuple[dict[str, Any], "StandIns"]:
        """The variables of a template with a stand-in for one character of each name that they spell.

        A string that ends as a name begins has one in its end too, lest the next string complete it. Words and digits
        are left there: a template compares them (`role == 'user'`). Lengths are as before.
        """
        taken = "".join((template, json.dumps(given, ensure_ascii=False), *self.names))
        stand_ins = StandIns(taken)
        changed = {
            name: _mapped(value, lambda text, is_value: self._hide(text, stand_ins, is_value))
            for name, value in given.items()
        }
        return changed, stand_ins

    def _hide(self, text: str, stand_ins: "StandIns", is_value: bool) -> str:
        # not the first or the last character, which templates look at
        def broken(found: re.Match[str]) -> str:
            name = found[0]
            place = 1 if len(name) > 2 else 0
            return name[:place] + stand_ins.of(name[place]) + name[place + 1 :]

        while (changed := self.pattern.sub(broken, text)) != text:  # again for names that overlap
            text = changed
        while is_value and text.endswith(self._beginnings):
            place = len(text) - max(len(each) for each in self._beginnings if text.endswith(each))
            text = text[:place] + stand_ins.of(text[place]) + text[place + 1 :]
        return text

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the longest name at each place, as the tokenizer does."""
        longest_first = sorted(self.names, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    @functools.cached_property
    def _beginnings(self) -> tuple[str, ...]:
        beginnings = {name[:length] for name in self.names for length in range(1, len(name))}
        return tuple(sorted(text for text in beginnings if not text.isalnum()))


class StandIns:
    """Characters that stand for others in what a template sees, and occur nowhere in a text."""

    def __init__(self, taken: str) -> None:
        self._free = (c for c in map(chr, _PRIVATE_USE) if c not in taken and _escaped(c) not in taken)
        self._of: dict[str, str] = {}

    def of(self, character: str) -> str:
        """The stand-in of a character."""
        if character not in self._of:
            try:
                self._of[character] = next(self._free)
            except StopIteration:
                raise InputError(
                    "conversation: uses every private-use character from U+E000 to U+F8FF; leave one out"
                ) from None
        return self._of[character]

    def restored(self, text: str) -> str:
        """A text with all characters back in their places, in strings that were escaped as JSON too."""
        for character, stand_in in self._of.items():
            text = text.replace(stand_in, character).replace(_escaped(stand_in), json.dumps(character)[1:-1])
        return text


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]


def _mapped(value: Any, change: Callable[[str, bool], str]) -> object:
    if isinstance(value, str):
        return change(value, True)
    if isinstance(value, dict):
        return {change(name, False): _mapped(item, change) for name, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return value
