"""The text of a portable program, and where two of them part."""

import re
from itertools import zip_longest

from aot.audit import words

_LOCATION = re.compile(r"\s*\bloc\((?:[^()\"]|\"[^\"]*\"|\((?:[^()\"]|\"[^\"]*\")*\))*\)")
_LONGEST = 200  # characters of an operation that are shown; constants may be long


def stablehlo_lines(program: bytes) -> list[str]:
    """The lines of a program's StableHLO, without locations. Raises ValueError for what this jax does not read."""
    from jax import export

    try:
        lines = export.deserialize(bytearray(program)).mlir_module().splitlines()
    except Exception as error:  # of flatbuffers, struct, MLIR or jax, by what is wrong
        raise ValueError(f"the installed jax does not read it ({type(error).__name__})") from error
    bare = (_LOCATION.sub("", line).strip() for line in lines if not line.startswith("#loc"))
    return [line for line in bare if line]


def first_difference(a: list[str], b: list[str]) -> tuple[str, str] | None:
    """The first operation of each text that is not the other's; None where the texts are equal."""
    for ours, theirs in zip_longest(a, b, fillvalue="the end"):
        if ours != theirs:
            return words.parted(ours, theirs, _LONGEST)
    return None
