"""Opens the devices that a bundle is loaded on.

Two implementations stand behind a client: `jaxlib_client`, which needs no jax and is ready in a tenth of a second, and
`jax_client`, which imports jax, and can compile.
"""

import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aot.bundle.store import Bundle
from aot.errors import InputError, MachineError
from aot.runtime.device.client import MOST_DEVICES, Client
from aot.runtime.place import Place

if TYPE_CHECKING:
    from aot.runtime.peers.processes import Group

log = logging.getLogger("aot")

CLIENT_VARIABLE = "AOT_CLIENT"
"""Environment variable that names the implementation to use: jaxlib or jax."""


def open_client(place: Place, *, compiling: bool, ids: Sequence[int] = (), group: "Group | None" = None) -> Client:
    """The client for a place: without jax for one device, where nothing is to be compiled and jaxlib is known to us.

    `ids` are the devices to take; `group` the processes that the mesh spans. Raises InputError for an unknown name in
    the environment, MachineError where devices lack.
    """
    _check_ids(ids)
    if place.mesh:
        _heed_flags()
        from aot.runtime.device import mesh_client

        return mesh_client.MeshClient(place.platform, place.mesh, ids, group)
    return open_replicas(place.platform, ids or (0,), compiling=compiling)[0]


def open_for(
    bundle: Bundle, place: Place, *, compiling: bool, ids: Sequence[int] = (), group: "Group | None" = None
) -> Client:
    """The client for a place that a bundle was built for, found to be so before any device is made.

    Raises as `open_client`, and BundleError where its executables are for another number of devices.
    """
    if place.mesh:
        from aot.runtime.device import mesh_contract

        mesh_contract.check_devices(bundle, place)
    return open_client(place, compiling=compiling, ids=ids, group=group)


def open_replicas(platform: str, ids: Sequence[int], *, compiling: bool) -> "list[Client]":
    """A client for each of some devices of this process. Raises as `open_client`."""
    _check_ids(ids)
    asked = os.environ.get(CLIENT_VARIABLE) or "jaxlib"
    if asked not in ("jaxlib", "jax"):
        raise InputError(f"{CLIENT_VARIABLE}: must be jaxlib or jax, got {asked!r}")
    _heed_flags()
    if asked == "jaxlib" and platform == "cpu" and not compiling:
        _quiet()
        from aot.runtime.device import jaxlib_client

        try:
            return list(jaxlib_client.virtual_clients(ids))
        except jaxlib_client.UnknownError as unknown:
            log.warning("taking the slower way through jax: %s", unknown)
    from aot.runtime.device import jax_client

    return [jax_client.JaxClient(device) for device in jax_client.find_devices(platform, max(ids) + 1, ids)]


def _check_ids(ids: Sequence[int]) -> None:
    if max(ids, default=0) >= MOST_DEVICES:
        raise MachineError(f"devices: no process has one of the id {max(ids)}, they are below {MOST_DEVICES}")


def count_devices(platform: str) -> int:
    """How many devices of a platform this process has."""
    _heed_flags()
    if "jax" in sys.modules or platform != "cpu":
        from aot.runtime.device import jax_client

        return len(jax_client.find_devices(platform, 1))
    _quiet()
    from aot.runtime.device import jaxlib_client

    return jaxlib_client.count_virtual_devices()


def _heed_flags() -> None:
    if "XLA_FLAGS" in os.environ:
        from aot.runtime.device import flags

        flags.settle_flags()


def _quiet() -> None:
    """Has XLA not speak of each device, as jax has it: set before jaxlib is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
