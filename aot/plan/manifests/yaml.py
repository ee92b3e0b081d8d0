"""Strict YAML: plain data, and the line that each value stands on.

YAML 1.2 scalars: only true and false are booleans. Duplicate keys, unquoted `no`, `on` and the like, tags, aliases
and values that JSON does not have are errors, all reported at once.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from aot.errors import ManifestError

Path = tuple[str | int, ...]

_BOOL = {"true": True, "false": False}
_NULL = ("", "~", "null")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_DIGITS = 300  # of a number; Python refuses thousands, and nothing here needs them
_DEPTH = 50
# What YAML 1.1 reads as something else than the text that it looks like.
_DOUBTFUL = re.compile(r"(?i:yes|no|on|off|true|false|null)|[-+]?0[0-9]+|[-+]?\.(?i:inf|nan)")


@dataclass(frozen=True)
class Document:
    """The data of one YAML document, and lines, counted from 1, by the path of keys and positions."""

    data: Any
    lines: Mapping[Path, int]

    def line(self, path: Path) -> int:
        """The line of the nearest thing that is there: the value itself, or what would hold it."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]


def load(text: str, place: str) -> Document:
    """The only document in some text. Raises ManifestError, a line for each fault, each beginning with `place`."""
    try:
        node = yaml.compose(text, Loader=_Strict)
        reader = _Reader(place)
        data = reader.value(node, ()) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise ManifestError(f"{place}:{mark.line + 1 if mark else 1}: not YAML: {problem}") from None
    except yaml.YAMLError as error:
        raise ManifestError(f"{place}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ManifestError(f"{place}: is nested too deeply; write it flatter") from None
    if reader.faults:
        raise ManifestError(*reader.faults)
    return Document(data, {(): 1, **reader.lines})


class _Strict(yaml.SafeLoader):
    """Composes nodes of untagged text only; what an unquoted scalar means is decided by `_Reader`."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise yaml.MarkedYAMLError(
                None, None, "anchors and aliases are not read; repeat the value", event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(None, None, f"tag {event.tag!r} is not read; leave it out", event.start_mark)
        return super().compose_node(parent, index)


class _Reader:
    """Makes plain data of nodes and notes lines and faults."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.lines: dict[Path, int] = {}
        self.faults: list[str] = []

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if len(path) > _DEPTH:
            raise RecursionError
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, place)) for place, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode), node
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str | int, Any]:
        data: dict[str | int, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key is None:
                continue
            if key in data:
                first = self.lines[(*path, key)]
                self._fault(key_node, f"key {key!r} is there twice, first on line {first}; remove one")
                continue
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            data[key] = self.value(value_node, (*path, key))
        return data

    def _key(self, node: yaml.Node) -> str | int | None:
        key = self._scalar(node) if isinstance(node, yaml.ScalarNode) else None
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            found = repr(node.value) if isinstance(node, yaml.ScalarNode) else "a list or a mapping"
            self._fault(node, f"a key must be text, got {found}; quote it")
            return None
        return key

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text = node.value
        if node.style is not None:  # quoted, or a block
            return text
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if _DOUBTFUL.fullmatch(text):
            self._fault(node, f"{text} is read differently by different programs; quote it, or write what is meant")
            return text
        if _INT.fullmatch(text) or _FLOAT.fullmatch(text):
            return self._number(node)
        return text

    def _number(self, node: yaml.ScalarNode) -> int | float:
        number: int | float = 0
        if len(node.value) <= _DIGITS:
            number = int(node.value, 0) if _INT.fullmatch(node.value) else float(node.value)
            if abs(number) != float("inf"):
                return number
        self._fault(node, f"{node.value[:20]}… is too large for a number; quote it, if text is meant")
        return number

    def _fault(self, node: yaml.Node, text: str) -> None:
        self.faults.append(f"{self.place}:{node.start_mark.line + 1}: {text}")
