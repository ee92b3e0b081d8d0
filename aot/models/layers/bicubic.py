"""Bicubic interpolation along one axis, as torch does it with `align_corners=False`: what is mixed, and by how much."""

import math

_A = -0.75


def bicubic_taps(size: int, given: int) -> tuple[list[list[int]], list[list[float]]]:
    """The four of `given` values that each of `size` places mixes, and their weights, in double precision."""
    centres = [(place + 0.5) * given / size - 0.5 for place in range(size)]
    near = [[math.floor(centre) + step for step in (-1, 0, 1, 2)] for centre in centres]
    weights = [[_weight(abs(centre - index)) for index in four] for centre, four in zip(centres, near, strict=True)]
    return [[min(max(index, 0), given - 1) for index in four] for four in near], weights


def _weight(distance: float) -> float:
    """The kernel of Keys (doi:10.1109/TASSP.1981.1163711)."""
    if distance <= 1:
        return ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    return ((distance - 5) * distance + 8) * distance * _A - 4 * _A if distance < 2 else 0.0
