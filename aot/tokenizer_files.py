"""The files in which checkpoints hold their tokenizers."""

from pathlib import Path

READY = "tokenizer.json"
"""The kind that is served from; others are converted when a bundle is built."""
_OTHERS = ("tokenizer.model", "tekken.json", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model", "vocab.txt")
_PAIR = ("vocab.json", "merges.txt")


def found(directory: Path) -> list[str]:
    """The files of a directory that hold a tokenizer: its tokenizer.json alone, or else those of other kinds."""
    if (directory / READY).is_file():
        return [READY]
    single = [name for name in _OTHERS if (directory / name).is_file()]
    pair = list(_PAIR) if all((directory / name).is_file() for name in _PAIR) else []
    return single + pair + sorted(path.name for path in directory.glob("*.tiktoken"))
