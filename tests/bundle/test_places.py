"""Which of the meshes that a bundle was built for it runs on, from the index alone."""

from dataclasses import replace

import pytest
import synthetic

from aot.bundle.index.records import ChainRecord
from aot.errors import MachineError
from aot.runtime.fitting import entries
from aot.runtime.place import Place

ONE, PAIR, SQUARE, ROW = (), (("model", 2),), (("data", 2), ("model", 2)), (("data", 4),)


def index_for(*meshes):
    """An index whose entries have a chain for each mesh, in this order."""
    index = synthetic.index()
    chains = tuple(ChainRecord("cpu", mesh, ((0, 0), (0, 1))) for mesh in meshes)
    return replace(index, entries=tuple(replace(entry, chains=chains) for entry in index.entries))


@pytest.mark.parametrize(
    ("meshes", "mesh"), [((SQUARE, ONE), ONE), ((ONE, PAIR), ONE), ((SQUARE, PAIR), SQUARE), ((PAIR,), PAIR), ((), ())]
)
def test_by_default_it_is_one_device_or_else_the_first_mesh(meshes, mesh):
    assert entries.find_place(index_for(*meshes)) == Place("cpu", mesh)


@pytest.mark.parametrize(("devices", "mesh"), [(1, ONE), (2, PAIR), (3, PAIR), (4, SQUARE), (5, SQUARE), (100, SQUARE)])
def test_of_a_number_of_devices_as_many_are_used_as_a_mesh_has_the_first_of_equal_ones(devices, mesh):
    assert entries.find_place(index_for(PAIR, SQUARE, ONE, ROW), devices) == Place("cpu", mesh)


def test_fewer_devices_than_any_mesh_has_are_refused_with_both_numbers():
    with pytest.raises(MachineError) as error:
        entries.find_place(index_for(SQUARE, PAIR), 1)

    assert str(error.value) == (
        "bundle: built for the mesh data 2 × model 2 and the mesh model 2, given 1 device; rebuild it for a mesh of as "
        "many, or give more"
    )


@pytest.mark.parametrize(
    ("processes", "devices", "mesh"), [(2, None, PAIR), (4, None, SQUARE), (2, 4, SQUARE), (2, 3, PAIR), (4, 9, SQUARE)]
)
def test_processes_get_a_mesh_of_which_they_have_equal_parts(processes, devices, mesh):
    assert entries.shared_place(index_for(ONE, PAIR, SQUARE), processes, devices) == Place("cpu", mesh)


@pytest.mark.parametrize(("processes", "devices"), [(3, None), (4, 2), (8, None)])
def test_processes_that_can_share_no_mesh_are_refused(processes, devices):
    with pytest.raises(MachineError, match=f"which {processes} processes.* cannot share equally"):
        entries.shared_place(index_for(ONE, PAIR, SQUARE), processes, devices)


def test_replicas_take_programs_of_one_device_only():
    assert entries.one_device(index_for(PAIR, ONE)) == entries.ONE_DEVICE
    with pytest.raises(MachineError, match="built for the mesh model 2, replicas serve programs of one"):
        entries.one_device(index_for(PAIR))
