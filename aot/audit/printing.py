"""The process that prints programs for `aot.audit.stablehlo`, whose jax may end it."""

import sys
from dataclasses import dataclass

from aot import extras, system
from aot.builder import messages


@dataclass(frozen=True)
class Print:
    """Asks for the text of a program."""

    program: bytes


@dataclass(frozen=True)
class Printed:
    """The lines of a program's text, or why there are none."""

    lines: tuple[str, ...]
    fault: str = ""


def main(parent: int) -> None:
    """Answers the process with this number, program by program."""
    system.end_with(parent)
    for asked in messages.received(sys.stdin.buffer, Print):
        sys.stdout.buffer.write(messages.packed(printed(asked.program)))
        sys.stdout.buffer.flush()


def printed(program: bytes) -> Printed:
    """The text of a program, as the installed jax prints it."""
    try:
        from jax import export
    except ImportError as error:
        return Printed((), extras.explain_import(error))
    try:
        return Printed(tuple(export.deserialize(bytearray(program)).mlir_module().splitlines()))
    except Exception as error:  # of flatbuffers, struct, MLIR or jax, by what is wrong
        return Printed((), f"the installed jax does not read it ({type(error).__name__})")


if __name__ == "__main__":
    main(int(sys.argv[1]))
