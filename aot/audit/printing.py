"""The process that prints programs for `aot.audit.stablehlo`, whose jax may end it: sizes and bytes in, JSON out."""

import json
import sys
from typing import Any, BinaryIO

from aot import extras, system

SIZE = 8  # bytes of the size before each program, little endian


def main(parent: int) -> None:
    """Answers the process with this number: a line for each program, `lines` of its text or a `fault`."""
    system.end_with(parent)
    while size := sys.stdin.buffer.read(SIZE):
        print(json.dumps(printed(sys.stdin.buffer, int.from_bytes(size, "little"))), flush=True)


def printed(programs: BinaryIO, size: int) -> dict[str, Any]:
    """The answer to the next program of a stream, which has so many bytes."""
    data = bytearray(programs.read(size))
    try:
        from jax import export
    except ImportError as error:
        return {"fault": extras.explain_import(error)}
    try:
        return {"lines": export.deserialize(data).mlir_module().splitlines()}
    except Exception as error:  # of flatbuffers, struct, MLIR or jax, by what is wrong
        return {"fault": f"the installed jax does not read it ({type(error).__name__})"}


if __name__ == "__main__":
    main(int(sys.argv[1]))
