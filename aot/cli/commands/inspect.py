"""`aot inspect`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from aot import partition, precompile
from aot.bundle import loss, statement, store
from aot.bundle.index import codec
from aot.bundle.index.records import ChainRecord, EntryRecord, ExecutableRecord, Index, ProgramRecord
from aot.bundle.store import Bundle
from aot.cli import output
from aot.errors import BundleError, InputError


@click.command("inspect", epilog=output.examples_epilog("aot inspect dist/tiny", "aot inspect dist/tiny --provenance"))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--provenance", is_flag=True, help="Print what it was built from and by: an in-toto statement.")
@output.as_json
def command(bundle: Path, provenance: bool, as_json: bool) -> None:
    """Show combos, programs, executables, sizes and memory needs of BUNDLE, and what quantization costs it.

    All of its bytes but the weights' are hashed; `aot verify` does those, too.
    """
    opened = store.sound(bundle)
    if provenance:
        click.echo(json.dumps(_provenance(opened), ensure_ascii=False, indent=None if as_json else 2))
    elif as_json:
        output.print_document(_document(opened))
    else:
        _print(opened)


def _provenance(bundle: Bundle) -> object:
    if "provenance" not in bundle.attachments:
        raise InputError(f"bundle {bundle.path}: has no provenance; one that is built anew has")
    found = statement.parse_statement(bundle)
    try:
        statement.read_statement(bundle)
    except BundleError as error:  # it is shown all the same, for whoever looks into it
        click.echo(f"remark: {error}", err=True)
    return found


def _document(bundle: Bundle) -> dict[str, Any]:
    index, cost = bundle.index, loss.read_loss(bundle)
    return {
        "digest": bundle.digest,
        "valid_until": index.valid_until,
        **({} if cost is None else {"loss": vars(cost)}),
        "combos": [{"key": c.key, **{name: c.dimensions[name] for name in precompile.FIELDS}} for c in index.combos],
        "entries": [_entry(index, entry) for entry in index.entries],
        "weights": {
            "blobs": [{"digest": blob.digest, "bytes": blob.bytes} for blob in index.weights.blobs],
            "arrays": {path: {"dtype": w.dtype, "shape": list(w.shape)} for path, w in index.weights.arrays.items()},
        },
    }


def _entry(index: Index, entry: EntryRecord) -> dict[str, Any]:
    programs = [
        {
            "platform": chain.platform,
            "mesh": dict(chain.mesh),
            "calls": [index.programs[p].digest for p, _ in chain.calls],
            "repeat": codec.plain(chain.repeat),
        }
        for chain in entry.chains
    ]
    return {
        "key": index.combos[entry.combo].key,
        "phase": entry.phase,
        "programs": programs,
        "executables": [_executable(program, e) for program in _programs(index, entry) for e in program.executables],
    }


def _executable(program: ProgramRecord, executable: ExecutableRecord) -> dict[str, Any]:
    """All of its record: what it was compiled for, by what, what it needs, and XLA's own figures."""
    return {"program": program.digest, **codec.plain(executable)}


def _programs(index: Index, entry: EntryRecord) -> list[ProgramRecord]:
    """The distinct programs of an entry, in the order of its calls."""
    positions = dict.fromkeys(position for chain in entry.chains for position, _ in chain.calls)
    return [index.programs[position] for position in positions]


def _print(bundle: Bundle) -> None:
    console, index = output.console(), bundle.index
    console.print(f"bundle {bundle.path}\ndigest {bundle.digest}\nvalid until {index.valid_until}", soft_wrap=True)
    weights = sum(blob.bytes for blob in index.weights.blobs)
    console.print(f"weights {output.counted(len(index.weights.arrays), 'arrays')}, {output.spelled_size(weights)}")
    if (cost := loss.read_loss(bundle)) is not None:
        console.print(output.loss_line(cost), soft_wrap=True)
    console.print()
    combos = output.combos_table("combo", [(combo.key, combo.dimensions) for combo in index.combos])
    for made in (combos, _entries(index), _table_of_programs(index)):
        console.print(made)
        console.print()


def _entries(index: Index) -> Table:
    table = output.empty_table(
        "entry", "phase", "platform", "calls", "programs", "peak memory", right=("calls", "programs", "peak memory")
    )
    for entry in index.entries:
        for chain in entry.chains:
            programs = [index.programs[p] for p in dict.fromkeys(p for p, _ in chain.calls)]
            peak = max((_needs(e.memory) for p in programs for e in p.executables), default=None)
            shown = "" if peak is None else output.spelled_size(peak)
            combo_key = index.combos[entry.combo].key[:12]
            table.add_row(combo_key, entry.phase, _place(chain), str(len(chain.calls)), str(len(programs)), shown)
    return table


def _table_of_programs(index: Index) -> Table:
    """Programs and their executables: the sizes of both, the memory that a call takes, and what XLA counts in it."""
    numbers = ("program bytes", "executable bytes", "arguments", "temporaries", "flops", "bytes accessed")
    table = output.empty_table("program", "name", "for", *numbers, right=numbers)
    for program in index.programs:
        row = (program.digest[7:19], program.name)
        if not program.executables:
            table.add_row(*row, _place(program), output.spelled_size(program.bytes))
        for e in program.executables:
            sizes = (program.bytes, e.bytes, e.memory["arguments"], e.memory["temporaries"])
            cost = (_flops(e.cost), output.spelled_size(e.cost["bytes_accessed"]) if "bytes_accessed" in e.cost else "")
            target = output.spelled_target(e.target) + (", tuned" if e.tuning else "")
            table.add_row(*row, target, *map(output.spelled_size, sizes), *cost)
    return table


def _place(record: ChainRecord | ProgramRecord) -> str:
    """Platform, and the mesh where there is one: `cpu data 2 × model 4`."""
    return f"{record.platform} {partition.spelled_mesh(dict(record.mesh))}" if record.mesh else record.platform


def _flops(cost: Mapping[str, int]) -> str:
    return f"{cost['flops'] / 1e6:,.1f} M" if "flops" in cost else ""


def _needs(memory: Any) -> int:
    """Bytes while a program runs: what it takes and makes, and what XLA needs in between."""
    return int(memory["arguments"] + memory["outputs"] - memory["aliased"] + memory["temporaries"])
