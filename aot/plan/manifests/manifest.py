"""The manifest: what a user writes, checked. `read` reports every fault of a file at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator

from aot.errors import ManifestError
from aot.plan.manifests import strict, yaml
from aot.plan.manifests.placement import Cpu, Partition, TargetSection
from aot.plan.manifests.sections import Generation, Model, Precompile
from aot.plan.manifests.strict import Section, Text, Wrong

Platform = Literal["cpu", "cuda", "tpu"]
_NAME = strict.matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "letters and digits, with . _ - between, at most 100")


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


def _separate(targets: list[TargetSection]) -> list[TargetSection]:
    strict.distinct([target.plain() for target in targets])
    return targets


class Content(Section):
    """The keys of a manifest."""

    name: Annotated[str, _NAME]
    model: Model
    precompile: Annotated[list[Precompile], BeforeValidator(_listed), Field(min_length=1)]
    generation: Generation = Generation()
    platforms: Annotated[list[Platform], Field(min_length=1), AfterValidator(strict.distinct)] = Field(
        default_factory=lambda: list(get_args(Platform))
    )
    targets: Annotated[list[TargetSection], AfterValidator(_separate)] = Field(
        default_factory=lambda: [TargetSection(cpu=Cpu())], validate_default=True
    )
    partition: Partition | None = None
    allow_custom_calls: Annotated[list[Text], AfterValidator(strict.distinct)] = Field(default_factory=list)

    @field_validator("targets")
    @classmethod
    def _with_programs(cls, targets: list[TargetSection], info: ValidationInfo) -> list[TargetSection]:
        platforms = info.data.get("platforms", get_args(Platform))
        if lacking := sorted({target.platform for target in targets}.difference(platforms)):
            raise Wrong(
                ("", f"{lacking[0]} is not among platforms, {platforms!r}; add it there, or give other targets")
            )
        return targets


@dataclass(frozen=True)
class Manifest:
    """A manifest that holds by itself; whether what it names is there and fits, `resolve` says."""

    path: Path
    content: Content
    document: yaml.Document

    @property
    def directory(self) -> Path:
        """What relative paths are relative to."""
        return self.path.parent

    def place(self, *path: str | int) -> str:
        """Where in the file the key at `path` stands, as errors name it."""
        return strict.located(self.document, str(self.path), path)


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file. Raises ManifestError, a line for each fault."""
    document = yaml.load(_text(path), str(path))
    if not isinstance(document.data, dict):
        found = "nothing" if document.data is None else f"a {type(document.data).__name__}"
        raise ManifestError(f"{path}:1: must be a mapping with the keys name, model and precompile, got {found}")
    try:
        return Manifest(path, Content.model_validate(document.data), document)
    except ValidationError as error:
        raise ManifestError(*strict.lines(error, document, str(path), Content)) from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; give the path of a manifest") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: is not UTF-8 at byte {error.start}; save it as UTF-8") from None
