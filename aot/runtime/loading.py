"""Loading a bundle: `aot.load`."""

from collections.abc import Sequence
from pathlib import Path

from aot.bundle import store
from aot.bundle.store import Bundle
from aot.errors import InputError, MachineError
from aot.runtime import entries, expiry, placing, verification
from aot.runtime.devices import Devices
from aot.runtime.distributed import Distributed
from aot.runtime.entries import Entry
from aot.runtime.model import Model
from aot.runtime.verification import Verification

POLICIES = ("strict", "compile")


def load(
    path: str | Path,
    *,
    policy: str = "strict",
    verify: str = "once",
    key: str | Path | None = None,
    devices: int | Sequence[int] | None = None,
    replicas: int | str | None = None,
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
    Raises InputError, BundleError, MachineError, PeerError.
    """
    for name, value, allowed in (("policy", policy, POLICIES), ("verify", verify, verification.POLICIES)):
        if value not in allowed:
            raise InputError(f"load: {name} must be one of {', '.join(allowed)}, got {value!r}")
    bundle = store.open(Path(path), None if key is None else _signed_with(Path(key)))
    expiry.warn(bundle)
    asked = Devices(devices, replicas, distributed)
    place = asked.place(bundle.index)
    found = entries.of(bundle.index, place)
    _check_machine(bundle, found, policy)
    views = placing.maps(bundle)  # whose pages come while the clients start
    checked = Verification(bundle, views, verify)
    compiling = policy == "compile" and not all(map(entries.fitting, entries.programs(found)))
    executors, group = asked.executors(bundle, policy, place, compiling, views)
    return Model(bundle, found, executors, checked, group)


def _check_machine(bundle: Bundle, found: tuple[Entry, ...], policy: str) -> None:
    """Refuses a bundle of which this machine can run nothing, before its weights are read."""
    usable = ("ready",) if policy == "strict" else ("ready", "compiles")
    first = None
    for entry in found:
        verdict = entries.verdict(entry)
        if verdict.verdict in usable:
            return
        first = first or verdict
    if first is not None:
        if first.verdict == "compiles":
            expiry.check(bundle, first.cause)
        hint = ", or load with policy='compile'" if first.verdict == "compiles" else ""
        place = f"bundle {bundle.path}: no executable for this machine"
        raise MachineError(f"{place}: {first.cause}; rebuild for this target{hint}")


def _signed_with(public_key: Path) -> store.Admit:
    from aot.bundle import sign

    return sign.by_key(public_key)
