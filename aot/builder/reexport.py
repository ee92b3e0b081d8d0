"""Exporting stored programs anew with the installed jax, from their StableHLO alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aot.builder import canonical, pace, settings
from aot.bundle.records import ProgramRecord
from aot.bundle.writer import Writer

if TYPE_CHECKING:
    from aot.builder.build import Report


@dataclass(frozen=True)
class Reexported:
    """Programs as the installed jax exports them, without executables, in the order in which they were given."""

    programs: tuple[ProgramRecord, ...]
    refused: str | None
    """Why the installed jax does not take one of them; then there are none."""
    versions: Mapping[str, str]


def programs(
    given: Sequence[ProgramRecord], waivers: Sequence[str], writer: Writer, report: "Report"
) -> Reexported:  # fmt: skip
    """Exports programs that are in the writer anew, in a process of their own."""
    from aot.builder.workers import Worker, decoded
    from aot.bundle import codec, records

    report.step("export", len(given))
    with Worker() as worker:
        task = {"programs": [codec.plain(record) for record in given], "waivers": list(waivers)}
        made = decoded(Reexported, worker.request("reexport", report.advance, **task, staging=str(writer.root)))
    writer.include(records.BlobRecord(record.digest, record.bytes) for record in made.programs)
    return made


def write(given: Sequence[Any], waivers: Sequence[str], writer: Writer, progress: pace.Progress) -> Reexported:
    """Exports programs anew into blobs, in this process."""
    import jax
    import jaxlib

    from aot.builder.workers import decoded

    settings.apply()
    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
    made, given_records = [], [decoded(ProgramRecord, raw) for raw in given]
    clock = pace.Pace(sum(record.bytes for record in given_records))
    for record in given_records:
        try:
            data = _exported(record, writer.read(record.digest), waivers)
        except Exception as error:  # whatever jax and its compiler say to bytes that they do not take
            cause = " ".join(str(error).split())[:300]
            return Reexported((), f"program {record.name} for {record.platform}: {cause}", versions)
        canonical.check_paths(data, f"program {record.name}")
        blob = writer.add(data)
        made.append(replace(record, digest=blob.digest, bytes=blob.bytes, executables=()))
        progress(f"{record.name} for {record.platform}", clock.left(record.bytes))
    return Reexported(tuple(made), None, versions)


def _exported(record: ProgramRecord, data: bytes, waivers: Sequence[str]) -> bytes:
    import jax
    from jax import export

    stored = export.deserialize(bytearray(data))

    def function(donated: Mapping[str, Any], kept: Mapping[str, Any]) -> Any:
        return stored.call(donated, kept)

    function.__name__ = function.__qualname__ = record.name
    specs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in stored.in_avals]
    arguments, _ = jax.tree.unflatten(stored.in_tree, specs)
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in waivers]
    # `Exported.call` drops donation: it has to be asked for again, for the first argument as when it was exported.
    jitted = jax.jit(function, donate_argnums=0, keep_unused=True)
    made = export.export(jitted, platforms=[record.platform], disabled_checks=checks)(*arguments)
    same = (made.in_tree, made.in_avals, made.out_tree, made.out_avals)
    if same != (stored.in_tree, stored.in_avals, stored.out_tree, stored.out_avals):
        raise ValueError("its calling contract changes")
    return bytes(made.serialize())
