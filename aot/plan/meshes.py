"""Which meshes a plan builds for, and the partition rules that lay its arrays on them."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from aot.partition import AxisEntry, Mesh, Rules, spelled_mesh
from aot.plan.plan import Plan
from aot.targets import CpuTarget, CudaTarget, Target, TpuTarget


def filled(target: Target, default: Mesh) -> Target:
    """A target with the mesh that it is built for and as many devices; with neither for one device."""
    mesh = _built_for(target.mesh, default)
    if isinstance(target, TpuTarget):
        return replace(target, mesh=mesh)
    assert isinstance(target, CpuTarget | CudaTarget), target
    return replace(target, mesh=mesh, devices=math.prod(mesh.values()) if mesh else None)


def mesh_faults(target: Target, default: Mesh) -> Iterator[tuple[str, str]]:
    """(option, text) of a target as in the manifest that has fewer devices than its mesh."""
    mesh = _built_for(target.mesh, default)
    needed = math.prod(mesh.values())
    if isinstance(target, TpuTarget):
        option, have = "topology", _places(target.topology)
    else:
        assert isinstance(target, CpuTarget | CudaTarget), target
        option, have = "devices", target.devices or needed
    if have < needed:
        yield option, f"has {have} devices, the mesh {spelled_mesh(mesh)} needs {needed}; give more, or a smaller mesh"


def on(plan: Plan, platform: str) -> tuple[Mesh, ...]:
    """The meshes that programs of a platform are lowered for: those of its targets, without any the default."""
    default = _built_for({}, (plan.partition or {}).get("mesh") or {})
    found = [target.mesh for target in plan.targets if target.platform == platform] or [default]
    return tuple({tuple(mesh.items()): mesh for mesh in found}.values())


def rules(plan: Plan) -> Rules:
    """The partition rules of a plan as values that compare."""
    given = plan.partition
    if given is None:
        return Rules()
    axes = dict(given["axes"])
    decode = axes.pop("decode", {})
    return Rules(
        written=tuple((pattern, tuple(map(_entry, entries))) for pattern, entries in given["rules"]),
        table={name: _entry(entry) for name, entry in axes.items()},
        decode={name: _entry(entry) for name, entry in decode.items()},
        replicate=given["indivisible"] == "replicate",
        gather=given["gather_params_once"],
    )


def _built_for(given: Mesh, default: Mesh) -> Mesh:
    """The mesh that is built for; empty for one device."""
    mesh = given or default
    return dict(mesh) if math.prod(mesh.values()) > 1 else {}


def _places(topology: str) -> int:
    return math.prod(map(int, topology.partition(":")[2].split("x")))


def _entry(entry: Any) -> AxisEntry:
    """An entry of a rule as the manifest has it; a list of one axis is that axis."""
    if isinstance(entry, (list, tuple)):
        return tuple(entry) if len(entry) > 1 else next(iter(entry), None)
    return entry
