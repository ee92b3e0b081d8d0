"""The small files that a plan is made from: JSON of one directory, and the digest of each that was read."""

from pathlib import Path
from typing import Any

from aot import digest, json_files
from aot.errors import InputError


class Files:
    """Files of a directory, by name, each read once: all that reads one for a plan reads it here."""

    def __init__(self, directory: Path, kind: str = "checkpoint") -> None:
        self.directory, self._kind = directory, kind
        self._read: dict[str, dict[str, Any]] = {}
        self._digests: dict[str, str] = {}

    @property
    def digests(self) -> dict[str, str]:
        """The digest of the bytes of each file that was read, by what they were read for and its name."""
        return {f"{self._kind}/{name}": of for name, of in sorted(self._digests.items())}

    def json(self, name: str) -> dict[str, Any]:
        """The fields of a file; none where there is no file. Raises InputError."""
        if name not in self._read:
            self._read[name] = self._fields(self.directory / name)
        return self._read[name]

    def _fields(self, file: Path) -> dict[str, Any]:
        try:
            data, fields = json_files.read_object(file)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}; make it readable") from None
        self._digests[file.name] = digest.digest_of(data)
        return fields
