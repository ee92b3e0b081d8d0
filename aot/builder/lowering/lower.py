"""Lowering: every program of a plan traced and exported once per platform, with its calling contract."""

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from aot import chain
from aot.builder import pace, settings
from aot.builder.compiling import canonical
from aot.builder.lowering import contract, footprint, layouts, sources
from aot.builder.lowering.layouts import Placed
from aot.builder.lowering.tables import Tables
from aot.bundle.index.records import (
    ArgumentRecord,
    BindingRecord,
    ChainRecord,
    EntryRecord,
    PartitionRecord,
    PhaseRecord,
    ProgramRecord,
    RepeatRecord,
)
from aot.bundle.writer import Writer
from aot.errors import InputError, ManifestError
from aot.partition import Axes, Layouts
from aot.slots import WEIGHT

if TYPE_CHECKING:
    from aot.plan import Plan

Get = Callable[[Placed, Callable[[], ProgramRecord]], ProgramRecord]
"""Gives the record of a program, which lies in the writer then: by the function beside it, or without lowering it."""

_CONSTANT_LIMIT = 1 << 16
"""Bytes that one program may hold as a constant; more belongs to the weights."""


@dataclass(frozen=True)
class Lowered:
    """All that lowering adds to the index."""

    programs: tuple[ProgramRecord, ...]
    bindings: tuple[BindingRecord, ...]
    phases: Mapping[str, PhaseRecord]
    entries: tuple[EntryRecord, ...]
    partitions: tuple[PartitionRecord, ...]
    versions: Mapping[str, str]
    settings: Mapping[str, Any]


def lower_programs(
    plan: "Plan",
    writer: Writer,
    progress: pace.Progress,
    key: str | None = None,
    get: Get = lambda placed, lower: lower(),
) -> Lowered:
    """Lowers every program of a plan, or of one of its combos, into blobs.

    Raises InputError for a model that cannot be lowered.
    """
    import jax
    import jaxlib

    settings.apply()
    tables, model = Tables(), sources.model(plan)
    weights = WEIGHT.slots(model.abstract_weights())
    states: dict[Hashable, dict[str, chain.Array]] = {}
    every, meshes = layouts.laid_out_chains(plan, model, key)
    count = len(layouts.distinct(every))
    clock = pace.Pace(count)

    def lowered(placed: Placed) -> ProgramRecord:
        lower = partial(_lowered, placed, plan, writer)
        record = get(placed, lower)
        progress(f"{placed.program.name} for {placed.platform}", clock.left(1), count, record)
        return record

    for laid in every:
        calls = []
        for call, placed in zip(laid.chain.calls, laid.programs, strict=True):
            program = tables.program(placed, partial(lowered, placed))
            calls.append((program, tables.binding(_binding(laid.phase, call, tables.programs[program]))))
        records = [(tables.programs[p], tables.bindings[b]) for p, b in calls]
        where = laid.position, laid.platform, *laid.mesh.items()
        known = weights | states.get(where, {})
        states[where] = contract.check_chain(laid.phase, laid.chain, records, known, laid.combo.dimensions())
        tables.phase(laid.phase, PhaseRecord(laid.chain.inputs, laid.chain.outputs, ()))
        mesh, repeat = tuple(laid.mesh.items()), _repeat(laid.chain)
        tables.chain(laid.position, laid.phase, ChainRecord(laid.platform, mesh, tuple(calls), repeat))
    return Lowered(
        programs=tuple(tables.programs),
        bindings=tuple(tables.bindings),
        phases=tables.phases,
        entries=tables.entries(),
        partitions=tuple(_partition(each) for each in meshes if each.mesh),
        versions={"jax": jax.__version__, "jaxlib": jaxlib.__version__},
        settings=settings.LOWERING,
    )


def _repeat(made: chain.Chain) -> RepeatRecord | None:
    return None if made.repeat is None else RepeatRecord(**vars(made.repeat))


def _partition(laid: Layouts) -> PartitionRecord:
    return PartitionRecord(tuple(laid.mesh.items()), tuple((name, len(found)) for name, found in laid.matches.items()))


@dataclass(frozen=True)
class Counted:
    """What a plan takes, without lowering: equal programs lower alike."""

    programs: int
    """Distinct ones."""
    compiles: int
    """Compiles of a program for a target."""
    footprints: tuple[footprint.Footprint, ...]
    """What the plan asks of the devices of each mesh."""


def count_programs(plan: "Plan", progress: pace.Progress = lambda *_: None) -> Counted:
    """Counts the programs of a plan, and lays its arrays on its meshes; nothing is traced.

    `progress` hears of each combo. Raises ManifestError as layouts do, and for a target whose devices do not hold
    weights and state.
    """
    model = sources.model(plan)
    laid, on = layouts.laid_out_chains(plan, model, progress=progress)
    distinct = layouts.distinct(laid)
    wanted = [(target.platform, tuple(target.mesh.items())) for target in plan.targets]
    compiles = sum(wanted.count((p.platform, p.mesh)) for p in distinct)
    footprints = footprint.footprints_of(laid, on, model)
    if faults := [f"manifest {plan.name!r}: {text}" for text in footprint.oversized(plan.targets, footprints)]:
        raise ManifestError(*faults)
    return Counted(len(distinct), compiles, footprints)


def _lowered(placed: Placed, plan: "Plan", writer: Writer) -> ProgramRecord:
    import jax

    program = placed.program
    exported = _exported(placed, plan.allow_custom_calls)
    _check_constants(program, exported)
    data = bytes(exported.serialize())
    canonical.check_paths(data, f"program {program.name}")
    blob = writer.add(data)
    # An executable takes the donated arguments first, each part sorted by name, and gives its results likewise.
    arguments = sorted(program.arguments, key=lambda item: (item[0] not in program.donated, item[0]))
    _check_dtypes(program, arguments, exported)
    results = sorted(jax.tree.unflatten(exported.out_tree, exported.out_avals).items())
    axes, given = dict(placed.arguments), dict(placed.results)
    return ProgramRecord(
        blob.digest,
        blob.bytes,
        program.name,
        placed.platform,
        placed.mesh,
        tuple(_argument(n, a.dtype, a.shape, axes.get(n, ()), n in program.donated) for n, a in arguments),
        tuple(_argument(n, aval.dtype.name, aval.shape, given.get(n, ()), False) for n, aval in results),
        (),
    )


def _exported(placed: Placed, waivers: tuple[str, ...]) -> Any:
    import jax
    from jax import export

    program = placed.program

    def function(donated: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
        return dict(program.function(**donated, **kept))

    function.__name__ = function.__qualname__ = program.name
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in waivers]
    arguments, results = _shardings(placed.mesh, placed.arguments), _shardings(placed.mesh, placed.results)
    jitted = jax.jit(function, donate_argnums=0, keep_unused=True, out_shardings=results or None)
    try:
        kept = {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=arguments.get(name))
            for name, array in program.arguments
        }
        donated = {name: kept.pop(name) for name in sorted(program.donated)}
        return export.export(jitted, platforms=[placed.platform], disabled_checks=checks)(donated, kept)
    except Exception as error:  # whatever a user's own model raises while it is traced
        cause = " ".join(str(error).split())
        place = f"program {program.name} for {placed.platform}"
        raise InputError(f"{place}: {type(error).__name__}: {cause[:500]}") from error


def _shardings(mesh: tuple[tuple[str, int], ...], axes: layouts.NamedAxes) -> dict[str, Any]:
    """The shardings of named arrays over an abstract mesh, which no device stands behind."""
    from jax.sharding import NamedSharding, PartitionSpec

    from aot.runtime.device import exports

    if not mesh:
        return {}
    abstract = exports.abstract_mesh(mesh)
    return {name: NamedSharding(abstract, PartitionSpec(*entries)) for name, entries in axes}


def _check_constants(program: chain.Program, exported: Any) -> None:
    found = re.findall(r'dense<"0x([0-9A-F]+)"', exported.mlir_module())
    largest = max((len(digits) // 2 for digits in found), default=0)
    if largest > _CONSTANT_LIMIT:
        raise InputError(
            f"program {program.name}: holds a constant of {largest} bytes, more than {_CONSTANT_LIMIT}; "
            "make it a weight, so that it is stored once"
        )


def _check_dtypes(program: chain.Program, arguments: list[tuple[str, chain.Array]], exported: Any) -> None:
    for (name, array), aval in zip(arguments, exported.in_avals, strict=True):
        if aval.dtype.name != array.dtype:
            raise InputError(
                f"program {program.name}: argument {name!r} is declared {array.dtype}, and jax makes it "
                f"{aval.dtype.name}; declare that"
            )


def _binding(phase: str, call: chain.Call, contract: ProgramRecord) -> BindingRecord:
    takes, gives = dict(call.takes), dict(call.gives)
    results = tuple(result.name for result in contract.results)
    if odd := set(results) ^ set(gives):
        place = f"model: phase {phase!r}: program {contract.name}"
        raise InputError(f"{place}: results without a slot, or slots without a result: {', '.join(sorted(odd))}")
    return BindingRecord(tuple(takes[a.name] for a in contract.arguments), tuple(gives[name] for name in results))


def _argument(name: str, dtype: str, shape: tuple[int, ...], axes: Axes, donated: bool) -> ArgumentRecord:
    sharding = (*axes, *(None,) * (len(shape) - len(axes)))
    return ArgumentRecord(name, dtype, tuple(shape), sharding, donated)
