"""Which meshes a plan builds for, and the partition rules that lay its arrays on them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from aot.partition import AxisEntry, Mesh, Rules, spelled_mesh
from aot.plan.plan import Plan

Target = Mapping[str, Any]


def filled(target: Target, default: Mesh) -> dict[str, Any]:
    """A target with the mesh that it is built for and as many devices; with neither for one device."""
    ((platform, options),) = target.items()
    mesh = options.get("mesh") or default
    needed = math.prod(mesh.values())
    rest = {name: value for name, value in options.items() if name not in ("mesh", "devices")}
    if needed == 1:
        return {platform: rest}
    devices = {} if platform == "tpu" else {"devices": needed}
    return {platform: {**rest, **devices, "mesh": dict(mesh)}}


def mesh_faults(target: Target, default: Mesh) -> Iterator[tuple[str, str]]:
    """(option, text) of a target as in the manifest that has fewer devices than its mesh."""
    ((platform, options),) = target.items()
    mesh = mesh_of(filled(target, default))
    needed = math.prod(mesh.values())
    option = "topology" if platform == "tpu" else "devices"
    have = _places(options["topology"]) if platform == "tpu" else options.get("devices", needed)
    if have < needed:
        yield option, f"has {have} devices, the mesh {spelled_mesh(mesh)} needs {needed}; give more, or a smaller mesh"


def mesh_of(target: Target) -> Mesh:
    """The mesh of a filled target; empty for one device."""
    (options,) = target.values()
    mesh: Mesh = options.get("mesh", {})
    return mesh


def on(plan: Plan, platform: str) -> tuple[Mesh, ...]:
    """The meshes that programs of a platform are lowered for: those of its targets, without any the default."""
    default = filled({platform: {}}, (plan.partition or {}).get("mesh") or {})
    found = [mesh_of(target) for target in plan.targets if platform in target] or [mesh_of(default)]
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


def _places(topology: str) -> int:
    return math.prod(map(int, topology.partition(":")[2].split("x")))


def _entry(entry: Any) -> AxisEntry:
    """An entry of a rule as the manifest has it; a list of one axis is that axis."""
    if isinstance(entry, (list, tuple)):
        return tuple(entry) if len(entry) > 1 else next(iter(entry), None)
    return entry
