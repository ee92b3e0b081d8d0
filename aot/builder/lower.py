"""Lowering: every program of a plan traced and exported once per platform, with its calling contract."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from aot import chain
from aot.builder import canonical, contract, pace, settings, sources
from aot.builder.tables import Tables
from aot.bundle.records import ArgumentRecord, BindingRecord, EntryRecord, PhaseRecord, ProgramRecord
from aot.bundle.writer import Writer
from aot.errors import InputError

if TYPE_CHECKING:
    from aot.builder.stored import Programs
    from aot.models.protocol import Model
    from aot.plan import Plan
    from aot.precompile import Combo

    _Place = tuple[int, Combo, str, str, chain.Chain]
    """The position of a combo, the combo, a platform, a phase, and its chain."""

_CONSTANT_LIMIT = 1 << 16
"""Bytes that one program may hold as a constant; more belongs to the weights."""


@dataclass(frozen=True)
class Lowered:
    """All that lowering adds to the index."""

    programs: tuple[ProgramRecord, ...]
    bindings: tuple[BindingRecord, ...]
    phases: Mapping[str, PhaseRecord]
    entries: tuple[EntryRecord, ...]
    versions: Mapping[str, str]
    settings: Mapping[str, Any]


def write(
    plan: "Plan",
    writer: Writer,
    progress: pace.Progress,
    key: str | None = None,
    stored: "Programs | None" = None,
) -> Lowered:
    """Lowers every program of a plan, or of one of its combos, into blobs; those that are stored are taken from there.

    Raises InputError for a model that cannot be lowered.
    """
    import jax
    import jaxlib

    settings.apply()
    tables, model = Tables(), sources.model(plan)
    weights = {f"weight/{path}": array for path, array in model.abstract_weights().items()}
    states: dict[tuple[int, str], dict[str, chain.Array]] = {}
    chains = list(_chains(plan, model, key))
    count = len(_programs(chains))
    clock = pace.Pace(count)

    def lowered(program: chain.Program, platform: str) -> ProgramRecord:
        lower = partial(_lowered, program, platform, plan, writer)
        record = lower() if stored is None else stored.get(program, platform, lower)
        progress(f"{program.name} for {platform}", clock.left(1), count)
        return record

    for position, combo, platform, phase, made in chains:
        calls = []
        for call in made.calls:
            program = tables.program((call.program, platform), partial(lowered, call.program, platform))
            calls.append((program, tables.binding(_binding(phase, call, tables.programs[program]))))
        records = [(tables.programs[p], tables.bindings[b]) for p, b in calls]
        known = weights | states.get((position, platform), {})
        states[position, platform] = contract.check(phase, made, records, known, combo.dimensions())
        tables.phase(phase, PhaseRecord(made.inputs, made.outputs))
        tables.chain(position, phase, platform, tuple(calls))
    return Lowered(
        programs=tuple(tables.programs),
        bindings=tuple(tables.bindings),
        phases=tables.phases,
        entries=tables.entries(),
        versions={"jax": jax.__version__, "jaxlib": jaxlib.__version__},
        settings=settings.LOWERING,
    )


def count(plan: "Plan") -> dict[str, int]:
    """Distinct programs, and how often one is compiled for a target, without lowering."""
    programs = _programs(_chains(plan, sources.model(plan)))
    compiled = sum(platform in target for _, platform in programs for target in plan.targets)
    return {"programs": len(programs), "compiles": compiled}


def _programs(chains: "Iterable[_Place]") -> set[tuple[chain.Program, str]]:
    """Distinct programs and their platforms: equal ones lower alike."""
    return {(call.program, platform) for _, _, platform, _, made in chains for call in made.calls}


def _chains(plan: "Plan", model: "Model", key: str | None = None) -> "Iterator[_Place]":
    for position, combo in enumerate(plan.combos):
        if key not in (None, combo.key):
            continue
        for platform in plan.platforms:
            for phase, made in model.chains(combo, platform, {}).items():
                yield position, combo, platform, phase, made


def _lowered(program: chain.Program, platform: str, plan: "Plan", writer: Writer) -> ProgramRecord:
    import jax

    exported = _exported(program, platform, plan.allow_custom_calls)
    _check_constants(program, exported)
    data = bytes(exported.serialize())
    canonical.check_paths(data, f"program {program.name}")
    blob = writer.add(data)
    # An executable takes the donated arguments first, each part sorted by name, and gives its results likewise.
    arguments = sorted(program.arguments, key=lambda item: (item[0] not in program.donated, item[0]))
    _check_dtypes(program, arguments, exported)
    results = sorted(jax.tree.unflatten(exported.out_tree, exported.out_avals).items())
    return ProgramRecord(
        blob.digest,
        blob.bytes,
        program.name,
        platform,
        {},
        tuple(_argument(name, array.dtype, array.shape, name in program.donated) for name, array in arguments),
        tuple(_argument(name, aval.dtype.name, aval.shape, False) for name, aval in results),
        (),
    )


def _exported(program: chain.Program, platform: str, waivers: tuple[str, ...]) -> Any:
    import jax
    from jax import export

    def function(donated: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
        return dict(program.function(**donated, **kept))

    function.__name__ = function.__qualname__ = program.name
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in waivers]
    jitted = jax.jit(function, donate_argnums=0, keep_unused=True)
    try:
        kept = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in program.arguments}
        donated = {name: kept.pop(name) for name in sorted(program.donated)}
        return export.export(jitted, platforms=[platform], disabled_checks=checks)(donated, kept)
    except Exception as error:  # whatever a user's own model raises while it is traced
        cause = " ".join(str(error).split())
        place = f"program {program.name} for {platform}"
        raise InputError(f"{place}: {type(error).__name__}: {cause[:500]}") from error


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


def _argument(name: str, dtype: str, shape: tuple[int, ...], donated: bool) -> ArgumentRecord:
    return ArgumentRecord(name, dtype, tuple(shape), (None,) * len(shape), donated)
