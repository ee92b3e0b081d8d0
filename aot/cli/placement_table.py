"""What `aot plan` prints of a mesh: how arrays lie on it, and what each device holds."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from aot import partition
from aot.cli import output
from aot.slots import INPUT, STATE, VALUE, slot_of

if TYPE_CHECKING:
    from aot.builder.lowering.footprint import Footprint, Placement


def placement_document(found: "Footprint") -> dict[str, Any]:
    """A footprint as JSON."""
    arrays = [
        {"path": a.path, "dtype": a.dtype, "shape": list(a.shape), "sharding": _plain(a.axes), "rule": a.rule}
        | ({"whole": list(a.whole)} if a.whole else {})
        for a in found.arrays
    ]
    held = {"weights": found.weights, "state": found.state}
    rules = [{"pattern": pattern, "matches": count} for pattern, count in found.rules]
    return {"mesh": dict(found.mesh), "bytes_per_device": held, "rules": rules, "arrays": arrays}


def show_placement(found: "Footprint") -> None:
    """Prints a footprint: one line for one device, for a mesh a table of the arrays before it."""
    console = output.console()
    if found.mesh:
        table = output.empty_table("array", "shape", f"on mesh {partition.spelled_mesh(found.mesh)}", "rule", "arrays")
        for name, count, first in _alike(found.arrays):
            lies = ", ".join("·".join(partition.axis_names(entry)) or "–" for entry in first.axes) or "–"
            shape = f"{first.dtype} {list(first.shape)}"
            cells = (name, shape, lies if any(first.axes) else "whole", first.rule or "", str(count))
            table.add_row(*cells)
        console.print(table)
    place = "each device holds" if found.mesh else "one device holds"
    held = f"weights {output.spelled_size(found.weights)}, state and KV cache {output.spelled_size(found.state)}"
    console.print(f"{place} {held}", soft_wrap=True)


def placement_remarks(found: "Footprint") -> Iterator[str]:
    """What rules would split and is whole; what reached a rule that takes everything."""
    whole = (why for array in found.arrays for why in array.whole)
    yield from dict.fromkeys(f"replicated: {partition.general_path(why)}" for why in whole)
    rest = [partition.general_path(array.path) for array in found.arrays if array.rule == ".*"]
    if rest:
        yield f"rule '.*' takes {', '.join(dict.fromkeys(rest))}"


def _alike(arrays: "Sequence[Placement]") -> list[tuple[str, int, "Placement"]]:
    """The arrays that differ in the number of their layer alone, as one: name, count, the first of them."""
    groups: dict[Any, dict[str, Placement]] = {}
    for array in sorted(arrays, key=lambda each: slot_of(each.path).kind in (INPUT, STATE, VALUE)):
        groups.setdefault((partition.general_path(array.path), array.shape, array.axes), {})[array.path] = array
    return [(name, len(group), next(iter(group.values()))) for (name, _, _), group in groups.items()]


def _plain(axes: partition.Axes) -> list[Any]:
    return [list(entry) if isinstance(entry, tuple) else entry for entry in axes]
