"""The flags of XLA that a target may set, with the reason that each is allowed: `xla_flags.json`.

Left out is what would undo a promise: other instruction sets, tuning while serving, dumps, paths.
"""

import functools
import json
from collections.abc import Iterable
from pathlib import Path

from aot import closest
from aot.errors import InputError

FlagValue = bool | int

_BOOLEANS = {"true": True, "false": False}


def parse_flags(platform: str, flags: Iterable[str]) -> dict[str, FlagValue]:
    """The values of flags such as `--xla_gpu_enable_triton_gemm=false`, by name; raises InputError for a wrong one."""
    found: dict[str, FlagValue] = {}
    for flag in flags:
        name, _, text = flag.removeprefix("--").partition("=")
        if not flag.startswith("--") or not text:
            raise InputError(f"must be flags like --name=value, got {flag!r}")
        if name in found:
            raise InputError(f"{name!r} is given twice; give it once")
        found[name] = _value(name, text, _allowed()[platform], platform)
    return found


def _value(name: str, text: str, allowed: dict[str, list[str]], platform: str) -> FlagValue:
    if name not in allowed:
        raise InputError(f"unknown flag {name!r} for {platform}; {closest.closest_hint(name, allowed, 'allowed are')}")
    kind, _ = allowed[name]
    if kind == "boolean" and text in _BOOLEANS:
        return _BOOLEANS[text]
    if kind == "integer" and text.isdecimal():
        return int(text)
    raise InputError(f"{name!r} takes {'true or false' if kind == 'boolean' else 'a number'}, got {text!r}")


@functools.cache
def _allowed() -> dict[str, dict[str, list[str]]]:
    table: dict[str, dict[str, list[str]]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return table
