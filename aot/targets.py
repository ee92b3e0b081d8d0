"""Targets: what executables are compiled for, a class for each platform."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from aot.partition import Mesh


class Target:
    """What executables are compiled for, of a class for each platform."""

    platform: ClassVar[str]
    xla_flags: tuple[str, ...]
    mesh: Mesh
    """The mesh that is built for; empty for one device."""
    others: Mapping[str, Any]
    """Options that this release does not know, of a bundle by a newer one."""

    @property
    def name(self) -> str:
        """What tells it from others of its platform, in messages."""
        raise NotImplementedError(type(self))

    def plain(self) -> dict[str, Any]:
        """The target as in manifests and indexes: {"cpu": {"isa": "avx2", "threads": 32}}."""
        given = {name: getattr(self, name) for name in _KNOWN[type(self)]}
        said = {name: value for name, value in given.items() if value not in (None, (), {})}
        if "xla_flags" in said:
            said["xla_flags"] = list(said["xla_flags"])
        return {self.platform: {**said, **self.others}}


@dataclass(frozen=True)
class CpuTarget(Target):
    """An x86-64 machine: its instruction set, and a bound on the threads of one call."""

    platform: ClassVar[str] = "cpu"

    isa: str
    threads: int
    arithmetic: str | None = None
    """`portable`, where all CPUs have to give the same bits."""
    xla_flags: tuple[str, ...] = ()
    devices: int | None = None
    """As many as a mesh has; None for one."""
    mesh: Mesh = field(default_factory=dict, hash=False)
    others: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        return self.isa


@dataclass(frozen=True)
class CudaTarget(Target):
    """NVIDIA GPUs of one kind."""

    platform: ClassVar[str] = "cuda"

    device: str
    xla_flags: tuple[str, ...] = ()
    devices: int | None = None
    """As many as a mesh has; None for one."""
    mesh: Mesh = field(default_factory=dict, hash=False)
    tuning: str | Mapping[str, Any] | None = field(default=None, hash=False)
    """Where a plan's tuning lies, as an absolute path; in a build, the record of its blob."""
    others: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        return self.device


@dataclass(frozen=True)
class TpuTarget(Target):
    """A TPU slice."""

    platform: ClassVar[str] = "tpu"

    topology: str
    xla_flags: tuple[str, ...] = ()
    mesh: Mesh = field(default_factory=dict, hash=False)
    others: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        return self.topology


_KINDS: dict[str, type[CpuTarget | CudaTarget | TpuTarget]] = {
    kind.platform: kind for kind in (CpuTarget, CudaTarget, TpuTarget)
}
_KNOWN: dict[type, tuple[str, ...]] = {
    kind: tuple(item.name for item in fields(kind) if item.name != "others") for kind in _KINDS.values()
}


def target_of(plain: Mapping[str, Mapping[str, Any]]) -> Target:
    """The target that `plain` wrote, or that a manifest or an index has."""
    ((platform, options),) = plain.items()
    kind = _KINDS[platform]
    known = {name: options[name] for name in _KNOWN[kind] if name in options}
    if isinstance(flags := known.get("xla_flags"), list):
        known["xla_flags"] = tuple(flags)
    others = {name: value for name, value in options.items() if name not in known} if len(options) > len(known) else {}
    return kind(**known, others=others)
