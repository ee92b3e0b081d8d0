"""Where a bundle runs."""

from typing import NamedTuple

from aot.bundle.index.bounds import Mesh


class Place(NamedTuple):
    """Where a bundle runs: a platform, and a mesh of its devices, empty for one of them."""

    platform: str
    mesh: Mesh = ()
