"""Names of tensors with the layers that are alike folded into one: `layers.{0-3}.norm.weight` for four."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

Shapes = dict[str, list[int]]

_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
_FOLDED = re.compile(r"\{(\d+)-(\d+)\}")


def folded(shapes: Mapping[str, Iterable[int]]) -> Shapes:
    """The shapes by names in which `{first-last}` stands for the numbers of layers that have the same shape."""
    alike = defaultdict(list)
    for name, shape in shapes.items():
        found = _LAYER.search(name)
        spread = _LAYER.sub("{}", name, count=1) if found else name
        alike[spread, tuple(shape)].append(int(found[0]) if found else 0)
    return {
        spread.replace("{}", spelled): list(shape)
        for (spread, shape), layers in sorted(alike.items())
        for spelled in _runs(sorted(layers))
    }


def unfolded(shapes: Mapping[str, list[int]]) -> Shapes:
    """The shapes by whole names, in the order of these."""
    found = {name: shape for spelled, shape in shapes.items() for name in _spread(spelled)}
    return dict(sorted(found.items()))


def _runs(layers: list[int]) -> Iterable[str]:
    """Numbers without a gap between them as `{first-last}`, a number by itself as it is."""
    starts = [layer for layer in layers if layer - 1 not in layers]
    for first in starts:
        last = next(layer for layer in layers if layer >= first and layer + 1 not in layers)
        yield str(first) if first == last else f"{{{first}-{last}}}"


def _spread(spelled: str) -> list[str]:
    if not (found := _FOLDED.search(spelled)):
        return [spelled]
    return [_FOLDED.sub(str(layer), spelled) for layer in range(int(found[1]), int(found[2]) + 1)]
