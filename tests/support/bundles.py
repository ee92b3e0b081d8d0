"""What tests do with bundles on disk."""

from dataclasses import replace
from pathlib import Path

from aot.bundle import store
from aot.bundle.writer import Writer

TODAY = "2026-07-01"
"""A day on which what any supported jax exports is readable."""


def dated(bundle: Path, day: str, destination: Path) -> Path:
    """A copy of a bundle, with its golden outputs, that was valid until another day."""
    opened = store.open(bundle)
    golden = opened.attachment("golden")
    with Writer.stage(destination) as writer:
        writer.adopt(opened)
        kept = {} if golden is None else {"golden": golden}
        writer.publish(replace(opened.index, valid_until=day), attachments=kept)
    return destination


def tree(directory: Path) -> dict[str, object]:
    """Everything below a directory: links, modes, times of last change, bytes."""
    found: dict[str, object] = {}
    for path in sorted(directory.rglob("*")):
        if "__pycache__" in path.parts:  # where a model of one's own was imported
            continue
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(directory))] = (status.st_mode, status.st_ino, status.st_mtime_ns, content)
    return found
