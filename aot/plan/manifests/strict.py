"""Strict sections of a manifest, and their faults as one line each with the place in the file."""

import re
import reprlib
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from aot import closest, digest
from aot.dimensions import LARGEST, unknown_key
from aot.plan.manifests import yaml

Positive = Annotated[int, Field(ge=1, le=LARGEST)]
TokenId = Annotated[int, Field(ge=0, le=LARGEST)]
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A mapping with known keys only, no type taken for another, null the same as absent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}


class Wrong(ValueError):
    """Faults that a validator found: the key (or "" for the value itself) and what is wrong, each."""

    def __init__(self, *pairs: tuple[str | int, str]) -> None:
        super().__init__(*pairs)
        self.pairs = pairs


def json_mapping(value: Any) -> dict[str, Any]:
    """The value, where it is a mapping of names to JSON values."""
    try:
        digest.canonical_json(value)
    except (TypeError, ValueError) as error:
        raise Wrong(("", f"must be a mapping of names to JSON values: {error}")) from None
    if not isinstance(value, dict):
        raise Wrong(("", f"must be a mapping of names to JSON values, got {value!r}"))
    return value


def matching(pattern: str, words: str) -> AfterValidator:
    """A validator of text that must match a pattern as a whole; the words say it for people."""

    def matched(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise Wrong(("", f"must be {words}, got {value!r}"))
        return value

    return AfterValidator(matched)


def distinct(values: list[Any]) -> list[Any]:
    """The values, where no two are equal."""
    if len({digest.canonical_json(value) for value in values}) < len(values):
        raise Wrong(("", f"values must be distinct, got {values!r}"))
    return values


def line(document: yaml.Document, place: str, path: yaml.Path, text: str) -> str:
    """One fault: `place:line: field.path: text`."""
    return f"{located(document, place, path)}: {text}"


def located(document: yaml.Document, place: str, path: yaml.Path) -> str:
    """Where a value stands: `place:line: field.path`."""
    return f"{place}:{document.line(path)}: {dotted(path)}"


def dotted(path: yaml.Path) -> str:
    """A path as people write it: `precompile[1].batch_size`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".") or "manifest"


def lines(error: ValidationError, document: yaml.Document, place: str, top: type[Section]) -> tuple[str, ...]:
    """The faults that pydantic found, in the order of the file."""
    found = [fault for details in error.errors() for fault in _faults(details, document, place, top)]
    return tuple(text for _, text in sorted(found, key=lambda fault: fault[0]))


def _faults(
    details: ErrorDetails, document: yaml.Document, place: str, top: type[Section]
) -> Iterator[tuple[int, str]]:
    path = _path(details["loc"], document)
    if details["type"] == "extra_forbidden":
        text = unknown_key(path[-1], tuple(_section(details["loc"][:-1], top).model_fields))
        yield document.line(path), f"{place}:{document.line(path)}: {text}"
        return
    raised = details.get("ctx", {}).get("error")
    pairs = raised.pairs if isinstance(raised, Wrong) else (("", _text(details)),)
    for key, text in pairs:
        inner = path if key == "" else (*path, key)
        yield document.line(inner), line(document, place, inner, text)


def _path(loc: tuple[int | str, ...], document: yaml.Document) -> yaml.Path:
    """The place in the file: without the position that a lone mapping was given, where a list was possible."""
    path: yaml.Path = ()
    for part in loc:
        if isinstance(part, str) or (*path, part) in document.lines:
            path = (*path, part)
    return path


def _section(loc: tuple[int | str, ...], top: type[Section]) -> type[Section]:
    """The section at a place: each field of a section leads to one other section at most."""
    for part in loc:
        if isinstance(part, str) and part in top.model_fields:
            top = next(_sections(top.model_fields[part].annotation), top)
    return top


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _sections(argument)


_WORDS = {
    "missing": "is missing; add it",
    "int_type": "must be an integer",
    "string_type": "must be text; quote it",
    "string_too_short": "must not be empty",
    "list_type": "must be a list",
    "too_short": "must have a value",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "bool_type": "must be true or false",
}


def _text(details: ErrorDetails) -> str:
    kind, found = details["type"], details["input"]
    words = _WORDS.get(kind) or details["msg"].replace("Input should be", "must be").replace("String should", "must")
    if kind == "missing":
        return words
    allowed = re.findall(r"'([^']*)'", details.get("ctx", {}).get("expected", ""))
    meant = closest.closest_names(found, allowed) if isinstance(found, str) else []
    return f"{words}, got {reprlib.repr(found)}" + (f"; did you mean {' or '.join(map(repr, meant))}?" if meant else "")
