"""Converts a tokenizer of another kind to tokenizer.json, in a worker: of what it reads, a library may end it."""

import contextlib
import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from aot import tokenizer_files
from aot.builder.pace import Progress
from aot.builder.tasks.task import Task
from aot.errors import InputError

_READERS = {
    **dict.fromkeys(("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"), "sentencepiece"),
    "tiktoken.model": "tiktoken",
}
"""What transformers reads a kind of file with."""


@dataclass(frozen=True)
class ConvertTokenizer(Task[bytes]):
    """Makes a tokenizer.json of a directory's files of another kind."""

    name = "tokenizer"

    directory: Path

    def perform(self, progress: Progress) -> bytes:
        """The bytes of the file. Raises InputError where there is none to be had."""
        return convert(self.directory)


def convert(directory: Path) -> bytes:
    """The tokenizer.json that transformers makes of the other files. Raises InputError where it cannot."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": os.getcwd(), "TRANSFORMERS_VERBOSITY": "error"}
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed (pip install 'jax-aot[convert]')") from error
    for name, needed in _READERS.items():
        if (directory / name).is_file() and importlib.util.find_spec(needed) is None:
            raise InputError(f"{needed} is not installed (pip install 'jax-aot[convert]')")
    if unread := [name for name in tokenizer_files.found(directory) if name.endswith(".tiktoken")]:
        raise InputError(f"transformers does not read {unread[0]}")
    try:
        made = AutoTokenizer.from_pretrained(directory, local_files_only=True).backend_tokenizer
    except Exception as error:  # besides its own, it passes on those of whatever reads the file
        raise InputError(f"transformers: {' '.join(str(error).split())[:200] or type(error).__name__}") from error
    for name in tokenizer_files.found(directory):
        # where it cannot read a file it may make a tokenizer of nothing but a few defaults
        if (known := _count(directory / name)) > (size := made.get_vocab_size()):
            raise InputError(f"transformers makes {size} tokens of the {known} in {name}")
    text: str = made.to_str()
    return text.encode()


def _count(file: Path) -> int:
    """How many tokens a file of another kind describes."""
    if file.suffix == ".json":
        described = json.loads(file.read_bytes())
        most = described["config"].get("default_vocab_size") if file.name == "tekken.json" else None
        return min(len(described["vocab"] if file.name == "tekken.json" else described), most or sys.maxsize)
    if _READERS.get(file.name) == "sentencepiece":
        from sentencepiece import SentencePieceProcessor

        with contextlib.suppress(RuntimeError):  # Llama 3's has the name, and is tiktoken's
            return int(SentencePieceProcessor(model_file=str(file)).get_piece_size())
    return 0 if file.name == "merges.txt" else len(file.read_bytes().splitlines())
