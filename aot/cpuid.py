"""What the CPU itself says that it has, and its system lets programs use: for systems that hide /proc/cpuinfo.

The C library has asked CPUID and the system when the process started (glibc from 2.33 on: <sys/platform/x86.h>).
"""

import ctypes
import platform

_LEAVES = {"1": 0, "7": 1, "80000001": 2, "7.1": 6}  # as glibc counts them
_EBX, _ECX, _EDX = 1, 2, 3
_BITS = {
    ("1", _EDX): {"cx8": 8, "cmov": 15, "mmx": 23, "fxsr": 24, "sse": 25, "sse2": 26},
    ("1", _ECX): {
        "pni": 0, "ssse3": 9, "fma": 12, "cx16": 13, "sse4_1": 19, "sse4_2": 20, "movbe": 22, "popcnt": 23,
        "xsave": 26, "avx": 28, "f16c": 29,
    },
    ("7", _EBX): {
        "bmi1": 3, "avx2": 5, "bmi2": 8, "avx512f": 16, "avx512dq": 17, "avx512cd": 28, "avx512bw": 30, "avx512vl": 31,
    },
    ("7.1", _EDX): {"avx_ne_convert": 5},
    ("80000001", _ECX): {"lahf_lm": 0, "abm": 5},
}  # fmt: skip
"""The bits of each leaf's registers, by the names of /proc/cpuinfo."""
_ALWAYS = frozenset({"fpu", "lm", "syscall"})
"""What a 64-bit program runs on in any case."""


class _Leaf(ctypes.Structure):
    """glibc's `struct cpuid_feature`."""

    _fields_ = (("cpuid", ctypes.c_uint32 * 4), ("active", ctypes.c_uint32 * 4))


def cpuid_features() -> frozenset[str]:
    """The features by the names of /proc/cpuinfo; none where it cannot be asked."""
    try:
        ask = ctypes.CDLL(None).__x86_get_cpuid_feature_leaf
    except (AttributeError, OSError):  # another C library, or an older one
        return frozenset()
    if platform.machine() != "x86_64":
        return frozenset()
    ask.restype, ask.argtypes = ctypes.POINTER(_Leaf), (ctypes.c_uint,)
    found = set(_ALWAYS)
    for (leaf, register), bits in _BITS.items():
        active = ask(_LEAVES[leaf]).contents.active[register]
        found |= {name for name, bit in bits.items() if active >> bit & 1}
    return frozenset(found)
