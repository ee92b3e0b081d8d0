"""PreCompileConfig: the shapes to build ahead of time, and the combos and keys that they expand to."""

import copy
import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from aot import digest, dimensions
from aot.errors import InputError, ManifestError

# Key schemas:
# 1: the first.
SCHEMA = 1

IMAGE = ("vision_batch_size", "vision_channels", "vision_height", "vision_width")


@dataclass(frozen=True, eq=False)
class PreCompileConfig:
    """Batch, prefill, cache and vision dimensions, each a scalar, a list (kept as a tuple) or None.

    None in a list, where None alone may stand, is a value like the others: the default.
    Two configs are equal when their keys are. Raises ManifestError, a line for each wrong field.
    """

    batch_size: int | Sequence[int] = 1
    """Rows: prompts times sequences per prompt."""
    prefill_length: int | Sequence[int | None] | None = None
    max_length: int | Sequence[int | None] | None = None
    """KV-cache capacity: prompt and generated tokens of one row."""
    vision_included: bool | Sequence[bool] = False
    vision_batch_size: int | Sequence[int | None] | None = None
    vision_channels: int | Sequence[int | None] | None = None
    vision_height: int | Sequence[int | None] | None = None
    vision_width: int | Sequence[int | None] | None = None
    required_props: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None
    """Name to JSON value, handed to the model's chains; a list of such mappings is one more dimension."""

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in FIELDS}
        if wrong := [
            f"precompile.{name}: {text}" for name in FIELDS if (text := dimensions.dimension_fault(name, given[name]))
        ]:
            raise ManifestError(*wrong)
        for name, value in given.items():
            object.__setattr__(self, name, dimensions.stored_dimension(name, value))

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, PreCompileConfig) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    @cached_property
    def key(self) -> str:
        """64 hex characters: the SHA-256 of the canonical JSON of the fields and a schema version."""
        values = {name: self.values(name) for name in FIELDS}
        plain = {name: value[0] if len(value) == 1 else value for name, value in values.items()}
        return hashlib.sha256(digest.canonical_json({"schema": SCHEMA, **plain})).hexdigest()

    def get_default_hash(self) -> int:
        """The key as an int."""
        return int(self.key, 16)

    def values(self, name: str) -> tuple[Any, ...]:
        """What a field gives: the items of a list, or one item; an empty mapping is None."""
        value = getattr(self, name)
        return tuple(item if item != {} else None for item in (value if isinstance(value, tuple) else (value,)))

    def get_standalones(self) -> "tuple[Combo, ...]":
        """The combos of the lists read as columns of a table; a shorter one repeats its last value."""
        return self.expand("zip")

    def expand(self, how: str = "product") -> "tuple[Combo, ...]":
        """The combos, by `zip` or by `product`; those that become equal because vision is off are one.

        Raises ManifestError, a line for each of `faults(how)`.
        """
        if faults := self.faults(how):
            raise ManifestError(*(f"precompile.{name}: {text}" for name, text in faults))
        return tuple(dict.fromkeys(Combo(**row) for row in self._rows(how)))

    def count(self, how: str) -> int:
        """The number of combos that `expand` gives, without making a product's."""
        if how == "zip":
            return len(self.expand(how))
        included = self.values("vision_included")
        images = included.count(True) * len(self._table(IMAGE)) + (False in included)
        others = set(FIELDS) - {"vision_included", *IMAGE}
        return images * math.prod(len(self.values(name)) for name in others)

    def faults(self, how: str) -> tuple[tuple[str, str], ...]:
        """What keeps the lists from being expanded: (field, what is wrong) each."""
        if how not in ("product", "zip"):
            return (("expand", f"must be 'product' or 'zip', got {how!r}"),)
        return (*(self._repeats_of_zip() if how == "zip" else self._repeats_of_product()), *self._short_caches(how))

    def _repeats_of_zip(self) -> Iterator[tuple[str, str]]:
        if rows := _repeated(self._rows("zip")):
            numbers = " and ".join(str(row + 1) for row in rows)
            yield "expand", f"rows {numbers} of the zipped lists are equal, a combo is allowed once; remove one"

    def _repeats_of_product(self) -> Iterator[tuple[str, str]]:
        for axis in self._axes():
            if _repeated(self._table(axis)):
                what = "image shapes" if axis == IMAGE else "values"
                name = next(name for name in axis if len(self.values(name)) > 1)
                yield name, f"{what} must be distinct, got {list(self.values(name))!r}"

    def _short_caches(self, how: str) -> Iterator[tuple[str, str]]:
        pairs = [(row["prefill_length"], row["max_length"]) for row in self._table(("prefill_length", "max_length"))]
        if how == "product":
            pairs = list(itertools.product(self.values("prefill_length"), self.values("max_length")))
        for prefill, capacity in pairs:
            if prefill is not None and capacity is not None and capacity <= prefill:
                yield "max_length", f"must be above prefill_length, got {capacity} for prefill_length {prefill}"
                return

    def _axes(self) -> tuple[tuple[str, ...], ...]:
        images = (IMAGE,) if True in self.values("vision_included") else ()
        return (*((name,) for name in FIELDS if name not in IMAGE), *images)

    def _table(self, names: Sequence[str]) -> list[dict[str, Any]]:
        columns = {name: self.values(name) for name in names}
        length = max(map(len, columns.values()))
        return [{name: column[min(row, len(column) - 1)] for name, column in columns.items()} for row in range(length)]

    def _rows(self, how: str) -> Iterator[dict[str, Any]]:
        if how == "zip":
            yield from self._table(FIELDS)
            return
        for parts in itertools.product(*(self._table(axis) for axis in self._axes())):
            yield {name: value for part in parts for name, value in part.items()}

    @classmethod
    def create_optimized_compo(
        cls,
        batch_size: int | Sequence[int] = 1,
        max_prefill_length: int = 2048,
        min_prefill_length: int = 64,
        **others: Any,
    ) -> Self:
        """A config whose prefill lengths double from the least to the greatest, both included."""
        if "prefill_length" in others:
            raise InputError("precompile.prefill_length: is made from the two ends; give those, or use the constructor")
        lengths = dimensions.doubling_sizes(min_prefill_length, max_prefill_length)
        return cls.from_dict({**others, "batch_size": batch_size, "prefill_length": lengths})

    def extract(self) -> dict[str, Any]:
        """The fields by name."""
        return {name: copy.deepcopy(getattr(self, name)) for name in FIELDS}

    def replace(self, **fields: Any) -> Self:
        """A config with some fields changed."""
        return self.from_dict({**self.extract(), **fields})

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values; `from_dict` gives a config of the same key."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.extract().items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """A config from fields by name; raises ManifestError for unknown names."""
        if unknown := [name for name in data if name not in FIELDS]:
            raise ManifestError(*(f"precompile: {dimensions.unknown_key(name, FIELDS)}" for name in unknown))
        return cls(**data)

    def to_json(self) -> str:
        """`to_dict` as canonical JSON."""
        return digest.canonical_json(self.to_dict()).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """A config from JSON; raises InputError for text that is none."""
        from aot import nesting  # which serving does not need

        try:
            data = json.loads(text)
            nesting.check_nesting(data)
        except (ValueError, RecursionError) as error:
            raise InputError(f"precompile: is not JSON ({error})") from None
        if not isinstance(data, dict):
            raise InputError(f"precompile: must be a JSON object, got {data!r}")
        return cls.from_dict(data)


@dataclass(frozen=True, eq=False)
class Combo(PreCompileConfig):
    """One standalone point of a precompile config: every field a scalar, no vision dimension where vision is off."""

    batch_size: int = 1
    prefill_length: int | None = None
    max_length: int | None = None
    vision_included: bool = False
    vision_batch_size: int | None = None
    vision_channels: int | None = None
    vision_height: int | None = None
    vision_width: int | None = None
    required_props: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in FIELDS:
            value = self.values(name)
            if len(value) > 1:
                raise InputError(f"precompile.{name}: a combo has one value, got {list(value)!r}; expand the config")
            object.__setattr__(self, name, None if name in IMAGE and not self.vision_included else value[0])

    def dimensions(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return self.to_dict()

    def shares_state(self, other: "Combo") -> bool:
        """Whether a state of one fits the programs of the other, but for the number of rows."""
        return (self.max_length, self.required_props) == (other.max_length, other.required_props)


FIELDS = tuple(field.name for field in dataclasses.fields(PreCompileConfig))


def _repeated(rows: Any) -> tuple[int, int] | None:
    """The places of the first two equal rows."""
    seen: dict[bytes, int] = {}
    for place, row in enumerate(rows):
        if (first := seen.setdefault(digest.canonical_json(row), place)) != place:
            return first, place
    return None
