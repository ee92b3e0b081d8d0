"""Which devices a bundle is loaded on: what `aot.load` was told, and the executors that this comes to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from aot.bundle.index.records import Index
from aot.bundle.store import Bundle
from aot.errors import InputError, MachineError
from aot.partition import spelled_mesh
from aot.runtime.device import client, opening
from aot.runtime.executables import Policy
from aot.runtime.execute import Executor
from aot.runtime.fitting import entries, fit
from aot.runtime.peers.distributed import Distributed
from aot.runtime.place import Place

if TYPE_CHECKING:
    from aot.runtime.peers.processes import Group

ALL = "all"


@dataclass(frozen=True)
class Devices:
    """Raises InputError for values that say nothing."""

    given: int | Sequence[int] | None = None
    """So many, or those with these ids."""
    replicas: int | Literal["all"] | None = None
    distributed: Distributed | None = None

    def __post_init__(self) -> None:
        if not (self.given is None or _is_count(self.given) or _are_ids(self.given)):
            raise InputError(f"load: devices must be a number above 0 or a list of ids, got {self.given!r:.80}")
        if not (self.replicas in (None, ALL) or _is_count(self.replicas)):
            raise InputError(f"load: replicas must be a number above 0 or 'all', got {self.replicas!r:.80}")
        if not (self.distributed is None or isinstance(self.distributed, Distributed)):
            raise InputError(f"load: distributed must be an aot.Distributed, got {self.distributed!r:.80}")
        if self.distributed is not None and (self.replicas is not None or self.ids):
            raise InputError("load: distributed takes neither replicas nor ids of devices; give devices as a number")

    @property
    def ids(self) -> tuple[int, ...]:
        """The devices by id; empty where any will do."""
        return tuple(int(id) for id in self.given) if isinstance(self.given, Sequence) else ()

    def place(self, index: Index) -> Place:
        """Where the bundle of an index runs. Raises MachineError where it was built for no such place."""
        if self.replicas is not None:
            return entries.one_device(index)
        number = len(self.ids) if self.ids else self.given
        assert not isinstance(number, Sequence)
        if self.distributed is None:
            return entries.find_place(index, number)
        return entries.shared_place(index, self.distributed.processes, number)

    def executors(
        self, bundle: Bundle, policy: Policy, place: Place, compiling: bool, views: tuple[memoryview, ...]
    ) -> "tuple[tuple[Executor, ...], Group | None]":
        """One for each replica, of weights that are mapped, and the processes that the one of a mesh spans."""
        group = None
        if self.distributed is not None:
            from aot.runtime.peers import meeting  # one process alone does without

            mesh = spelled_mesh(dict(place.mesh))
            group = meeting.join_group(self.distributed, bundle=bundle.digest, mesh=mesh, jaxlib=fit.jaxlib_version())
        if self.replicas is None:
            clients = [opening.open_for(bundle, place, compiling=compiling, ids=self.ids, group=group)]
        else:
            clients = opening.open_replicas(place.platform, self._replicas(place.platform), compiling=compiling)
        return tuple(Executor(bundle, policy, place, client=each, views=views) for each in clients), group

    def _replicas(self, platform: str) -> tuple[int, ...]:
        """The device of each replica."""
        if isinstance(self.given, int) and self.replicas in (None, ALL):
            number = self.given
        elif self.replicas == ALL:
            number = len(self.ids) or opening.count_devices(platform)
        else:
            number = int(self.replicas or 1)
        if number > client.MOST_DEVICES:
            raise MachineError(f"load: at most {client.MOST_DEVICES} replicas are possible, got {number}")
        room = len(self.ids) if self.ids else self.given
        if isinstance(room, int) and number > room:
            raise MachineError(
                f"load: {number} replicas need as many devices, given {room}; give more, or fewer replicas"
            )
        return self.ids[:number] if self.ids else tuple(range(number))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_ids(value: Any) -> bool:
    whole = isinstance(value, list | tuple) and all(type(id) is int and id >= 0 for id in value)
    return whole and 0 < len(value) == len(set(value))
