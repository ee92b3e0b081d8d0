"""The tokenizer files that a bundle carries: a checkpoint's, with what transformers makes of other kinds."""

import functools
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from aot import tokenizer_files
from aot.builder.tasks.tokenizer import ConvertTokenizer
from aot.builder.workers import Worker
from aot.errors import AotError, BundleError, InputError
from aot.tokenizer_files import READY

if TYPE_CHECKING:
    from aot.plan import Plan

_FILES = {
    **{name: name for name in (READY, "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")},
    **{f"chat_template.{name}.jinja": f"additional_chat_templates/{name}.jinja" for name in ("default", "tool_use")},
}
"""The name of a file in a bundle, and its place in the directory of a tokenizer."""
_LEGACY = "chat_template.json"  # a processor's, which a template in a file of its own replaces
_WHEELS = ("transformers", "tokenizers", "sentencepiece", "tiktoken", "protobuf")
_ADVICE = "or give a directory with a tokenizer.json as model.tokenizer"


def tokenizer_blobs(directory: Path | None) -> dict[str, bytes]:
    """The files of a bundle by name; none where the model has no tokenizer, or one that cannot be had here."""
    if directory is None:
        return {}
    found = {name: (directory / place).read_bytes() for name, place in _found(directory).items()}
    if READY not in found:
        made, reason = _converted(directory)
        return {} if reason else {**found, READY: made}
    return found


def tokenizer_sources(directory: Path | None) -> list[tuple[str, Path]]:
    """What `files` reads: places in the directory, with their paths."""
    if directory is None or not tokenizer_blobs(directory):
        return []
    found = _found(directory)
    places = [*found.values(), *(() if READY in found else tokenizer_files.found(directory))]
    return [(place, directory / place) for place in places]


def converter_wheels(directory: Path | None) -> tuple[str, ...]:
    """The distributions that decide what becomes of a tokenizer of another kind."""
    return _WHEELS if directory is not None and READY not in _found(directory) and tokenizer_blobs(directory) else ()


def tokenizer_remarks(plan: "Plan") -> tuple[str, ...]:
    """What becomes of a tokenizer of another kind. Raises InputError for files that could not be served from."""
    directory = plan.model.tokenizer
    if directory is None:
        return ()
    if given := tokenizer_blobs(directory):
        _check(given, directory, () if plan.generation is None else plan.generation.eos_token_id)
    if READY in _found(directory):
        return ()
    kinds, (_, reason) = " and ".join(tokenizer_files.found(directory)), _converted(directory)
    if not reason:
        return (f"tokenizer: {READY} is made of {kinds} by transformers {metadata.version('transformers')}",)
    if directory != plan.model.checkpoint:
        raise InputError(f"model.tokenizer: {directory} has no {READY}, and {kinds} cannot be converted: {reason}")
    return (f"tokenizer: {kinds} cannot be converted, so the bundle takes token ids alone: {reason}, {_ADVICE}",)


def _check(given: dict[str, bytes], directory: Path, ends: tuple[int, ...]) -> None:
    from aot.runtime.prompting.text import TextTokenizer

    try:
        TextTokenizer.from_files(given, str(directory), ends=ends).check()
    except BundleError as error:
        what = str(error).rpartition("; ")[0]
        raise InputError(f"{what}; correct the file, {_ADVICE}") from error


def _found(directory: Path) -> dict[str, str]:
    found = {name: place for name, place in _FILES.items() if (directory / place).is_file()}
    if not any(name.endswith(".jinja") for name in found) and (directory / _LEGACY).is_file():
        found[_LEGACY] = _LEGACY
    return found


def _converted(directory: Path) -> tuple[bytes, str]:
    """A tokenizer.json of a tokenizer of another kind, or why there is none."""
    status = [(directory / name).stat() for name in tokenizer_files.found(directory)]
    return _asked(directory, tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in status))


@functools.lru_cache(maxsize=8)
def _asked(directory: Path, _: tuple[tuple[int, ...], ...]) -> tuple[bytes, str]:
    with Worker() as worker:
        try:
            return worker.request(ConvertTokenizer(directory)), ""
        except AotError as error:  # of what it reads, the library may end the process
            return b"", str(error)
