"""The sections of a manifest that say what to build: `model`, `precompile` and `generation`."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, model_validator

from aot import closest, dimensions, precompile, sampling
from aot.errors import InputError
from aot.plan.manifests import strict
from aot.plan.manifests.strict import Positive, Section, Text, TokenId, Wrong, json_mapping


def _config(value: Any) -> Any:
    return value if isinstance(value, str) and value else json_mapping(value)


_FACTORY = strict.matching(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", "a name as 'package.module:callable'")


class Model(Section):
    """`model`: a checkpoint, or a factory of the user's own."""

    checkpoint: Text | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    quantization: Literal["int8"] | None = None
    config: Annotated[Any, PlainValidator(_config)] = None
    tokenizer: Text | None = None
    subtree: Text = "params"
    factory: Annotated[str, _FACTORY] | None = None
    arguments: Annotated[dict[str, Any], PlainValidator(json_mapping)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind(self) -> "Model":
        given = self.model_fields_set
        if "checkpoint" not in given and "factory" not in given:
            raise Wrong(("checkpoint", "is missing; give a checkpoint, or a factory"))
        other = {"checkpoint", "dtype", "quantization", "config", "subtree"} if "factory" in given else {"arguments"}
        kind = "factory" if "factory" in given else "checkpoint"
        if wrong := sorted(given & other):
            raise Wrong(*((name, f"has no meaning beside {kind}; remove one of the two") for name in wrong))
        return self


def _dimension(name: str) -> PlainValidator:
    def checked(value: Any) -> Any:
        if name == "prefill_length" and isinstance(value, dict):
            value = _doubling(value)
        if wrong := dimensions.dimension_fault(name, value):
            raise Wrong(("", wrong))
        return value

    return PlainValidator(checked)


def _doubling(value: dict[Any, Any]) -> list[int]:
    if set(value) != {"min", "max"}:
        raise Wrong(("", f"must be a length, a list, or a mapping of min and max, got {value!r}"))
    try:
        return list(dimensions.doubling_sizes(value["min"], value["max"]))
    except InputError as error:
        raise Wrong(("", str(error).split(": ", 1)[1])) from None


class Precompile(Section):
    """One mapping of `precompile`: the fields of a PreCompileConfig and how they are expanded."""

    expand: Literal["product", "zip"] | None = None
    batch_size: Annotated[Any, _dimension("batch_size")] = None
    prefill_length: Annotated[Any, _dimension("prefill_length")] = None
    max_length: Annotated[Any, _dimension("max_length")] = None
    vision_included: Annotated[Any, _dimension("vision_included")] = None
    vision_batch_size: Annotated[Any, _dimension("vision_batch_size")] = None
    vision_channels: Annotated[Any, _dimension("vision_channels")] = None
    vision_height: Annotated[Any, _dimension("vision_height")] = None
    vision_width: Annotated[Any, _dimension("vision_width")] = None
    required_props: Annotated[Any, _dimension("required_props")] = None
    max_combos: Positive = 4096

    @property
    def config(self) -> precompile.PreCompileConfig:
        return precompile.PreCompileConfig(**{name: getattr(self, name) for name in precompile.FIELDS})

    @property
    def how(self) -> Literal["product", "zip"]:
        """How to expand; with one list both ways are the same."""
        return self.expand or "product"

    @model_validator(mode="after")
    def _expandable(self) -> "Precompile":
        lists = [name for name in precompile.FIELDS if len(self.config.values(name)) > 1]
        if self.expand is None and len(lists) > 1:
            raise Wrong(("expand", f"is missing, where {' and '.join(lists)} have several values; say product or zip"))
        if wrong := self.config.faults(self.how):
            raise Wrong(*wrong)
        return self


def _sequences(value: Any) -> Any:
    """A number, or numbers by combo key; the keys in hex, as they are in a bundle."""
    table = value if isinstance(value, dict) else {"": value}
    for key, number in table.items():
        if type(number) is not int or not 1 <= number <= dimensions.LARGEST:
            raise Wrong((key, f"must be an integer of at least 1, or such by combo key, got {number!r}"))
        if value is table and not re.fullmatch(f"[0-9a-f]{{{closest.SHORTEST},64}}", _hex(key)):
            raise Wrong(
                (key, f"keys must be those of combos, in hex, the first digits of it, or as an integer, got {key!r}")
            )
    by_key = {_hex(key): number for key, number in table.items()}
    if len(by_key) < len(table):
        raise Wrong(("", "the same key is there twice, as an integer and in hex; remove one"))
    return by_key if value is table else value


def _hex(key: str | int) -> str:
    return f"{key:064x}" if isinstance(key, int) else key


def _eos(value: Any) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [] if type(value) is int and value == -1 else [value]
    if any(type(item) is not int or not 0 <= item <= dimensions.LARGEST for item in ids):
        raise Wrong(("", f"must be a token id, a list of them, or -1 for never, got {value!r}"))
    return tuple(dict.fromkeys(ids))


def _sampling(value: Any) -> Any:
    if value == "checkpoint":
        return value
    if not isinstance(value, dict):
        raise Wrong(("", f"must be 'checkpoint' or a mapping of sampling options, got {value!r}"))
    wrong = [(key, text) for key, item in value.items() if (text := _option(key, item))]
    if wrong:
        raise Wrong(*wrong)
    return sampling.SamplingParams(**{key: item for key, item in value.items() if item is not None})


def _option(key: Any, value: Any) -> str | None:
    if key not in sampling.SAMPLING_FIELDS:
        return dimensions.unknown_key(key, sampling.SAMPLING_FIELDS)
    if value is None:
        return None
    try:
        sampling.SamplingParams(**{key: value})
    except InputError as error:
        return str(error).split(": ", 1)[1]
    return None


class Generation(Section):
    """`generation`: what a request defaults to, and what decode programs are made for."""

    max_new_tokens: Positive = 64
    num_return_sequences: Annotated[Any, PlainValidator(_sequences)] = 1
    streaming_chunks: Positive = 16
    logits: Literal["none", "last", "all"] = "none"
    eos_token_id: Annotated[tuple[int, ...] | None, PlainValidator(_eos)] = None
    pad_token_id: TokenId | None = None
    bos_token_id: TokenId | None = None
    sampling: Annotated[Any, PlainValidator(_sampling)] = sampling.SamplingParams()
