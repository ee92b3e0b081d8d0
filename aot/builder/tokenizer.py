"""The tokenizer files that a bundle carries."""

from pathlib import Path

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def files(directory: Path | None) -> dict[str, bytes]:
    """Those of the files that the directory has, by name; none where the model has no tokenizer."""
    if directory is None:
        return {}
    return {name: (directory / name).read_bytes() for name in FILES if (directory / name).is_file()}
