"""Another CPU for this process: what XLA asks of `cpuid` is answered as another CPU would answer (cpuid.c).

It is for compiling. Code for what this CPU has not would end the process.
"""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("cpuid.c")
LIBRARY = "libjax_common.so"
VARIABLE = "CPUID_LIBRARY"
"""Names a directory that `made` has filled."""
CPUID, XGETBV = b"\x0f\xa2", b"\x0f\x01\xd0"
_BEFORE = range(12, 60)
"""Bytes before an instruction at which decoding is begun: from nearly all of these it falls into step."""


def made(directory: Path) -> str | None:
    """Puts what `put_on` needs into a directory; else says why this machine cannot be disguised."""
    cc = shutil.which("cc")
    if cc is None or os.uname().machine != "x86_64" or sys.platform != "linux":
        return "needs a C compiler for Linux on x86-64"
    target = directory / "cpuid.so"
    done = subprocess.run([cc, "-O1", "-shared", "-fPIC", "-o", target, SOURCE], capture_output=True, text=True)
    if done.returncode:
        return f"the C compiler fails: {done.stderr.strip().splitlines()[-1:]}"
    import jaxlib

    (library,) = Path(jaxlib.__file__).parent.glob(LIBRARY)
    (directory / "places.json").write_text(json.dumps({name.hex(): places(library, name) for name in (CPUID, XGETBV)}))
    return None


def places(library: Path, instruction: bytes) -> list[int]:
    """Where an instruction stands in the code of a library, by address; its bytes also occur within others."""
    import capstone
    from elftools.elf.elffile import ELFFile

    with library.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".text")
        start, code = section["sh_addr"], section.data()
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)

    def met(at: int, back: int) -> bool:
        found = decoder.disasm_lite(code[at - back : at + len(instruction)], at - back)
        return any((place, size) == (at, len(instruction)) for place, size, _, _ in found)

    found = (match.start() for match in re.finditer(re.escape(instruction), code))
    return [start + at for at in found if sum(met(at, back) for back in _BEFORE) > len(_BEFORE) // 2]


def put_on(name: str) -> None:
    """Makes this process take its CPU for another one. To be called before XLA asks."""
    from jaxlib import _jax  # noqa: F401, which maps the library

    directory = Path(os.environ[VARIABLE])
    ours = ctypes.CDLL(str(directory / "cpuid.so"))
    known = json.loads((directory / "places.json").read_text())
    base = _base()
    lists = [[base + place for place in known[kind.hex()]] for kind in (CPUID, XGETBV)]
    arrays = [(ctypes.c_void_p * len(each))(*each) for each in lists]
    if ours.put_on(name.encode(), arrays[0], len(lists[0]), arrays[1], len(lists[1])):
        raise SystemExit(f"no disguise as {name!r}: unknown, or the system refuses to change code")


def _base() -> int:
    """Where the library is mapped."""
    lines = (line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(f"/{LIBRARY}"))
    return min(int(line.partition("-")[0], 16) for line in lines)
