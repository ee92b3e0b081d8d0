"""Loading a bundle: `aot.load`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

from aot.bundle import held, store
from aot.bundle.index.records import BlobRecord
from aot.bundle.store import Bundle
from aot.errors import InputError, MachineError
from aot.runtime.device import compilations, placing
from aot.runtime.device_choice import Devices
from aot.runtime.executables import Policy
from aot.runtime.fitting import entries, expiry
from aot.runtime.fitting.entries import Entry
from aot.runtime.model import Model
from aot.runtime.peers.distributed import Distributed
from aot.runtime.verification import Verification, Verify


def load(
    path: str | Path,
    *,
    policy: Policy = "strict",
    verify: Verify = "once",
    key: str | Path | None = None,
    devices: int | Sequence[int] | None = None,
    replicas: int | Literal["all"] | None = None,
    distributed: Distributed | None = None,
) -> Model:
    """Opens a bundle and maps its weights.

    With policy `strict` nothing is ever compiled: a program without an executable for this machine is a MachineError
    when it is needed, or at once where that is so for every entry. `compile` compiles it then, and logs that it does.
    `verify` says when weights are checked against their digests; the index and whatever is run always are. `always`:
    now. `once`: not where this user has verified these very files on this machine before; else in a thread that starts
    after the first token, and no call ends well before it has. `never`: not at all.
    Of an expired bundle it is logged that it is; what fits this machine runs on, and a program that would have to be
    compiled is an ExpiredError then. `key` names a public key: a bundle not signed with its private one is refused
    before its index is parsed.
    `devices` says on how many devices of this process to run, or on which by their ids: of the meshes that the bundle
    was built for the largest takes them that they hold. `replicas` serves a bundle of one device on so many (`all`: on
    all of `devices`, or of this process), splitting the rows of a call over them. With `distributed` this process holds
    its part of a mesh that several processes share; each of them is to make the same calls in the same order.
    A loaded bundle serves to its end whatever becomes of its directory: what may still be read is held open.
    Raises InputError, BundleError, MachineError, PeerError.
    """
    for name, value, allowed in (("policy", policy, get_args(Policy)), ("verify", verify, get_args(Verify))):
        if value not in allowed:
            raise InputError(f"load: {name} must be one of {', '.join(allowed)}, got {value!r}")
    compilations.watch_compilations()
    bundle = store.open(Path(path), None if key is None else _signed_with(Path(key)))
    expiry.warn_of_expiry(bundle)
    asked = Devices(devices, replicas, distributed)
    place = asked.place(bundle.index)
    found = entries.entries_of(bundle.index, place)
    _check_machine(bundle, found, policy)
    served = bundle.holding(_sizes(bundle.index.tokenizer.values()), held.room())
    views = placing.map_weights(bundle)  # whose pages come meanwhile, and which stay whatever becomes of the files
    checked = Verification(served, views, verify)
    compiling = policy == "compile" and not all(map(entries.fitting_executable, entries.programs_of(found)))
    started = served.holding(_needed_at_first(bundle, found, policy), held.room())
    executors, group = asked.executors(started, policy, place, compiling, views)
    return Model(served, found, executors, checked, group)


def _sizes(blobs: Iterable[BlobRecord]) -> Iterable[tuple[str, int]]:
    return ((blob.digest, blob.bytes) for blob in blobs)


def _needed_at_first(bundle: Bundle, found: tuple[Entry, ...], policy: Policy) -> Iterable[tuple[str, int]]:
    """What is read until all is loaded that runs here: executables, and programs where these may be compiled.

    Which ones run here takes looking at each program, so that is asked only where there are many files.
    """
    sizes = bundle.manifest.sizes("executable", *(["program"] if policy == "compile" else []))
    if len(sizes) <= held.room():
        return sizes.items()
    chosen = ((program, entries.fitting_executable(program)) for program in entries.programs_of(found))
    needed = {program.digest if executable is None else executable.digest for program, executable in chosen}
    return [(name, size) for name, size in sizes.items() if name in needed]


def _check_machine(bundle: Bundle, found: tuple[Entry, ...], policy: Policy) -> None:
    """Refuses a bundle of which this machine can run nothing, before its weights are read."""
    usable = ("ready",) if policy == "strict" else ("ready", "compiles")
    first = None
    for entry in found:
        verdict = entries.judge_entry(entry)
        if verdict.verdict in usable:
            return
        first = first or verdict
    if first is not None:
        if first.verdict == "compiles":
            expiry.check_expiry(bundle, first.cause)
        hint = ", or load with policy='compile'" if first.verdict == "compiles" else ""
        place = f"bundle {bundle.path}: no executable for this machine"
        raise MachineError(f"{place}: {first.cause}; rebuild for this target{hint}")


def _signed_with(public_key: Path) -> store.Admit:
    from aot.bundle import sign

    return sign.by_public_key(public_key)
