"""What somebody may have meant by a name that is not allowed: never another number, and all that is allowed."""

import difflib
import re
from collections.abc import Iterable

from aot.errors import InputError

SHORTEST = 6  # hex digits of a key or digest that is named by its beginning
_SHOWN = 40  # allowed names in a message; the rest is counted
_ALIKE = 0.85  # of the end of an architecture's name, as `CausalML` for `CausalLM`


def closest_hint(name: object, allowed: Iterable[str], words: str = "allowed:") -> str:
    """`did you mean 'a100-40gb' or 'a100-80gb'? allowed: …`, for the end of a message."""
    names = list(dict.fromkeys(allowed))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    listed = f"{words} {', '.join(names[:_SHOWN])}{more}"
    meant = " or ".join(map(repr, closest_names(str(name), names)))
    return f"did you mean {meant}? {listed}" if meant else listed


def closest_names(name: str, allowed: Iterable[str]) -> list[str]:
    """The names that begin with this one, else the one that is spelled most alike.

    It has the same numbers and the same first letter: int4 is no int8, and a gpu no tpu.
    """
    names = list(allowed)
    if name and (longer := [each for each in names if each.lower().startswith(name.lower())]):
        return longer
    numbers = _numbers(name)
    alike = [each for each in names if _numbers(each) == numbers and each[:1].lower() == name[:1].lower()]
    return difflib.get_close_matches(name, alike, n=1)


def find_combo_key(name: str, combo_keys: Iterable[str]) -> str:
    """The one key of a combo that is, or begins with, a name. Raises InputError where there is none, or several."""
    found = [each for each in combo_keys if each.startswith(name)] if len(name) >= SHORTEST else []
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{len(found)} keys begin with {name!r}; give more digits")
    raise InputError(f"no combo has the key {name!r}, nor one that begins so, with {SHORTEST} digits or more")


def closest_architecture(name: object, allowed: Iterable[str]) -> list[str]:
    """The architecture that is misspelled, never another one: what stands before `For`, or all of it, is as it is.

    Names of architectures are alike although the models are not: Granite, Mixtral and Mistral.
    """
    stem, rest = _parts(str(name))
    alike = [each for each in allowed if _parts(each)[0] == stem]
    found = [each for each in alike if difflib.SequenceMatcher(None, rest, _parts(each)[1]).ratio() >= _ALIKE]
    return found[:1]


def _parts(name: str) -> tuple[str, str]:
    stem, _, rest = name.lower().partition("for")
    return re.sub("[^a-z0-9.]", "", stem), rest


def _numbers(name: str) -> list[str]:
    return re.findall(r"[0-9]+", name)
