"""The sections of a manifest that say for what to build: `targets` and `partition`."""

import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from aot import devices, xla_flags
from aot.errors import InputError
from aot.plan.manifests.strict import Positive, Section, Text, Wrong

Mesh = dict[Text, Positive]

ISAS = ("avx2", "avx512")
_OTHER_ISAS = ("neon", "sve", "sve2", "sme", "rvv", "altivec", "vsx", "armv8", "aarch64", "arm64", "riscv64", "ppc64le")

# The names that families give to the dimensions of their arrays.
AXES = (
    "batch", "sequence", "key_sequence", "head", "kv_head", "attention_dim", "hidden", "mlp", "vocab",
)  # fmt: skip


def _isa(value: str) -> str:
    if value.lower() in _OTHER_ISAS:
        raise Wrong(("", f"{value!r} is of another architecture; cpu executables are for x86-64: {' or '.join(ISAS)}"))
    if value not in ISAS:
        raise Wrong(("", f"must be {' or '.join(map(repr, ISAS))}, got {value!r}"))
    return value


def _known(look_up: Callable[[str], Any], value: str) -> str:
    try:
        look_up(value)
    except InputError as error:
        raise Wrong(("", str(error))) from None
    return value


def _flags(platform: str, value: list[str]) -> list[str] | None:
    """Sorted: their order means nothing."""
    try:
        xla_flags.parse_flags(platform, value)
    except InputError as error:
        raise Wrong(("", str(error))) from None
    return sorted(value) or None


def _arithmetic(value: str) -> str | None:
    """`fast` is what a target is that says nothing."""
    return None if value == "fast" else value


class Cpu(Section):
    """An x86-64 machine: instruction set, a bound on the threads of one call, whether all CPUs give the same bits."""

    isa: Annotated[str, AfterValidator(_isa)] = "avx2"
    threads: Positive = 32
    arithmetic: Annotated[Literal["fast", "portable"] | None, AfterValidator(_arithmetic)] = None
    devices: Positive | None = None
    mesh: Mesh | None = None
    xla_flags: Annotated[list[Text] | None, AfterValidator(partial(_flags, "cpu"))] = None


class Cuda(Section):
    """NVIDIA GPUs of one kind."""

    device: Annotated[Text, AfterValidator(partial(_known, devices.find_gpu))]
    devices: Positive | None = None
    mesh: Mesh | None = None
    tuning: Text | None = None
    xla_flags: Annotated[list[Text] | None, AfterValidator(partial(_flags, "cuda"))] = None


class Tpu(Section):
    """A TPU slice."""

    topology: Annotated[Text, AfterValidator(partial(_known, devices.parse_topology))]
    mesh: Mesh | None = None
    xla_flags: Annotated[list[Text] | None, AfterValidator(partial(_flags, "tpu"))] = None


class TargetSection(Section):
    """One of the platforms, and what on it executables are compiled for."""

    cpu: Cpu | None = None
    cuda: Cuda | None = None
    tpu: Tpu | None = None

    @model_validator(mode="after")
    def _one(self) -> "TargetSection":
        if len(self.model_fields_set) != 1:
            found = ", ".join(sorted(self.model_fields_set)) or "none"
            raise Wrong(("", f"must name one of cpu, cuda and tpu with its options, got {found}"))
        return self

    @property
    def platform(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def tuning(self) -> str | None:
        """The path of its tuning: how it is compiled, not what for."""
        return None if self.cuda is None else self.cuda.tuning

    def plain(self) -> dict[str, Any]:
        """The target as in the manifest, defaults filled in, without its tuning."""
        return self.model_dump(exclude_none=True, exclude={"cuda": {"tuning"}})


def _entry(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(name, str) and name for name in names)


def _rules(value: Any) -> Any:
    """Ordered (pattern, entries), each entry a mesh axis, null or a list of axes."""
    if not isinstance(value, list):
        raise Wrong(("", f"must be a list of [pattern, [entry, …]], got {value!r}"))
    wrong = [(place, text) for place, rule in enumerate(value) if (text := _rule(rule))]
    if wrong:
        raise Wrong(*wrong)
    return value


def _rule(rule: Any) -> str | None:
    match rule:
        case [str(pattern), list(entries)] if all(map(_entry, entries)):
            try:
                re.compile(pattern)
            except re.error as error:
                return f"{pattern!r} is not a regular expression: {error}"
            return None
    return f"must be [pattern, [entry, …]], an entry a mesh axis, null or a list of axes, got {rule!r}"


def _axes(value: Any) -> Any:
    """Mesh axes by the name of a dimension, with a `decode` mapping that overrides them there."""
    if not isinstance(value, dict):
        raise Wrong(("", f"must be a mapping of dimensions to mesh axes, got {value!r}"))
    decode = value.get("decode", {})
    if not isinstance(decode, dict):
        raise Wrong(("decode", f"must be a mapping of dimensions to mesh axes, got {decode!r}"))
    entries = [(key, entry) for key, entry in (*value.items(), *decode.items()) if entry is not decode]
    wrong = [(key, f"unknown dimension; allowed: {', '.join(AXES)}") for key, _ in entries if key not in AXES]
    wrong += [(key, f"must be a mesh axis, null or a list, got {e!r}") for key, e in entries if not _entry(e)]
    if wrong:
        raise Wrong(*wrong)
    return value


class Partition(Section):
    """How arrays are laid over a mesh of devices."""

    mesh: Mesh = Field(default_factory=dict)
    rules: Annotated[list[Any], PlainValidator(_rules)] = Field(default_factory=list)
    axes: Annotated[dict[str, Any], PlainValidator(_axes)] = Field(default_factory=dict)
    indivisible: Literal["error", "replicate"] = "error"
    gather_params_once: bool = False

    @model_validator(mode="after")
    def _known_axes(self) -> "Partition":
        decode = self.axes.get("decode", {})
        used = [("rules", entry) for _, entries in self.rules for entry in entries]
        used += [("axes", entry) for entry in (*self.axes.values(), *decode.values()) if entry is not decode]
        names = [(key, name) for key, entry in used for name in (entry if isinstance(entry, list) else [entry])]
        wrong = [(key, name) for key, name in names if name is not None and name not in self.mesh]
        if wrong and self.mesh:  # without one, targets have meshes of their own
            axes = ", ".join(self.mesh)
            raise Wrong(*((key, f"mesh has no axis {name!r}; its axes: {axes}") for key, name in dict.fromkeys(wrong)))
        return self
