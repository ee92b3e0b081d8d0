"""The proof that machine code keeps to a declared ISA: every instruction of an executable, decoded and looked up.

The list of allowed names is the assembler's (`mnemonics.json`), for the groups that capstone gives are incomplete: it
has none for GFNI or FMA4. Names of AVX and AVX2 are also those of their AVX-512 forms, which alone begin with the EVEX
byte. What cannot be decoded is refused, so what a newer CPU adds is refused as well.
"""

import functools
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aot.builder.compiling import canonical
from aot.errors import AotError
from aot.isa import Baseline

_PREFIXES = b"\x26\x2e\x36\x3e\x64\x65\x67"  # segments and address size: all that may stand before the EVEX byte
_EVEX = b"\x62"  # in 64-bit code nothing else begins so
_XOP = b"\x8f"  # AMD's; but for `pop`, which it took the byte from
_EXECUTABLE = 0x4  # SHF_EXECINSTR


def check_instructions(executable: bytes, baseline: Baseline) -> None:
    """Raises AotError naming the first instruction outside the baseline, and its function."""
    for name, image in canonical.objects(executable):
        elf = _open(image, name)
        for place, section in enumerate(elf.iter_sections()):
            if section["sh_flags"] & _EXECUTABLE and (found := outside(section.data(), baseline)):
                at, instruction = found
                raise AotError(
                    f"executable: {instruction} in function {_function(elf, place, at)!r} is outside {baseline.name}, "
                    f"which allows the instructions of {baseline.level}; change that part of the model, or report it"
                )


def outside(code: bytes, baseline: Baseline) -> tuple[int, str] | None:
    """Where the first instruction outside the baseline is and what it is; None where all are inside."""
    allowed, decoder, accepted, end = _allowed(baseline.name), _decoder(), set(), 0
    for at, size, mnemonic, operands in decoder.disasm_lite(code, 0):
        key = (mnemonic, code[at])
        if key not in accepted or code[at] in _PREFIXES:
            if not _inside(code[at : at + size], allowed, baseline):
                return at, f"{mnemonic!r} ({operands})"
            accepted.add(key)
        end = at + size
    return None if end == len(code) else (end, f"the undecodable {code[end : end + 8].hex(' ')!r}")


def functions(executable: bytes) -> tuple[str, ...]:
    """The names of all functions that the object files of an executable define, sorted."""
    images = [_open(image, name) for name, image in canonical.objects(executable)]
    return tuple(sorted({name for elf in images for _, name, _ in _functions(elf)}))


def _inside(instruction: bytes, allowed: frozenset[str], baseline: Baseline) -> bool:
    # by capstone's name of the operation: what it prints has prefixes and the predicate of a comparison in it
    name = next(_decoder().disasm(instruction, 0)).insn_name()
    first = instruction.lstrip(_PREFIXES)[:1]
    xop = first == _XOP and name != "pop"
    return name in allowed and not xop and (first != _EVEX or "avx512f" in baseline.llvm)


@functools.cache
def _decoder() -> Any:
    import capstone

    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


@functools.cache
def _allowed(isa: str) -> frozenset[str]:
    table = json.loads(Path(__file__).with_name("mnemonics.json").read_text(encoding="utf-8"))
    parts = {"avx2": ("avx2",), "avx512": ("avx2", "avx512")}[isa]
    return frozenset(name for part in parts for line in table[part] for name in line.split())


def _open(image: bytes, name: str) -> Any:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        return ELFFile(io.BytesIO(image))
    except ELFError as error:
        raise AotError(f"executable: object file {name!r} is no ELF file ({error}); report it") from None


def _function(elf: Any, section: int, at: int) -> str:
    starts = sorted((start, name) for place, name, start in _functions(elf) if place == section and start <= at)
    return starts[-1][1] if starts else f"<byte {at} of section {section}>"


def _functions(elf: Any) -> Iterator[tuple[int, str, int]]:
    """Section, name and start of each function that an object file defines."""
    table = elf.get_section_by_name(".symtab")
    for symbol in table.iter_symbols() if table else ():
        if symbol["st_info"]["type"] == "STT_FUNC" and isinstance(symbol["st_shndx"], int):
            yield symbol["st_shndx"], symbol.name, symbol["st_value"]
