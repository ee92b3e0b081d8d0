"""Changes of plain values (mappings, lists and scalars) in what they mean, drawn by a random generator."""

import copy
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

Pattern = tuple[str, ...]

_MANY = 24
"""Names from which on a mapping is taken to be one of things alike."""
_ODD = (None, True, False, 0, 1, -1, 1.5, "", "x", [], {}, [0], [None], {"x": 0}, [[]], ["x"])
_NUMBERS = (
    *(0, 1, 2, 3, 7, -1, 255, 256, 1000, 4096, 65535, 65536, 10**6),
    *(2**31 - 1, 2**31, 2**32, 2**40, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63)),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf")),
)
_TEXTS = (
    *("", " ", "x", "0", "\0", "a\nb", "é", "𝛼", "../../etc/passwd", "/etc/passwd", "[/bold]", "{", "%s", "{x}"),
    *("cpu", "float32", "float64", "int4", "S4", "O", "bfloat16", "model", "data", "prefill", "decode", "null"),
    *("9" * 400, "a" * 100_000),
)
_DEEP, _LONG = 200, 5000


class Place(NamedTuple):
    """A value by what holds it, its name there, and the way to it with `*` for things alike."""

    holder: Any
    name: Any
    pattern: tuple[str, ...]
    path: tuple[Any, ...]

    @property
    def value(self) -> Any:
        """What is there now."""
        return self.holder[self.name]

    def put(self, value: Any) -> str:
        """Puts another value there, and says so."""
        before, self.holder[self.name] = self.value, value
        return f"{self}: {shown(before)} → {shown(value)}"

    def __str__(self) -> str:
        return ".".join(map(str, self.path))


def shown(value: Any) -> str:
    """A value in few characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def places(value: Any, within: Pattern = (), pattern: Pattern = (), path: tuple[Any, ...] = ()) -> Iterator[Place]:
    """All in a value whose pattern begins so."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    alike = isinstance(value, list) or (isinstance(value, dict) and _are_alike(value))
    depth = len(pattern)
    for name, item in items:
        part = "*" if alike else str(name)
        if depth >= len(within) or part == within[depth]:
            here = (*pattern, part), (*path, name)
            if depth + 1 >= len(within):
                yield Place(value, name, *here)
            if isinstance(item, (dict, list)):
                yield from places(item, within, *here)


def _are_alike(value: dict[str, Any]) -> bool:
    kinds = [tuple(item) if isinstance(item, dict) else None for item in value.values()]
    return len(value) > _MANY or (len(kinds) > 0 and None not in kinds and len(set(kinds)) == 1)


def change(rng: random.Random, value: Any, found: Iterable[Place] | None = None) -> str:
    """Changes one thing in a value, or at a place found in it, each pattern as likely as others, and says what."""
    groups: dict[Pattern, list[Place]] = defaultdict(list)
    for place in places(value) if found is None else found:
        groups[place.pattern].append(place)
    if not groups:
        return "nothing there"
    alike = groups[rng.choice(list(groups))]
    place = rng.choice(alike)
    return rng.choice(_changes(place.value))(rng, place, alike)


_Change = Callable[[random.Random, Place, list[Place]], str]


def _changes(value: Any) -> tuple[_Change, ...]:
    anyway = (_type, _remove, _other, _other, _rename, _double)
    if isinstance(value, list):
        return (*anyway, _item, _repeat, _swap, _turn, _long, _empty, _deep)
    if isinstance(value, dict):
        return (*anyway, _surplus, _swap, _empty, _many, _deep)
    if isinstance(value, str):
        return (*anyway, _text, _text, _edit)
    return (*anyway, _number, _number, _number, _near)


def _type(rng: random.Random, place: Place, _: list[Place]) -> str:
    return place.put(copy.deepcopy(rng.choice([odd for odd in _ODD if type(odd) is not type(place.value)])))


def _number(rng: random.Random, place: Place, _: list[Place]) -> str:
    return place.put(rng.choice(_NUMBERS))


def _near(rng: random.Random, place: Place, _: list[Place]) -> str:
    value = place.value if isinstance(place.value, int) else 0
    near = rng.choice((value + 1, value - 1, value * 2, value // 2, -value, value + 64))
    return place.put(max(-(2**63), min(near, 2**64 - 1)))  # what msgpack holds


def _text(rng: random.Random, place: Place, _: list[Place]) -> str:
    return place.put(rng.choice(_TEXTS))


def _edit(rng: random.Random, place: Place, _: list[Place]) -> str:
    text, at = place.value, rng.randrange(len(place.value) + 1)
    return place.put(rng.choice((text + "x", text[:at] + text[at + 1 :], text[:at] + "0" + text[at:], text.upper())))


def _other(rng: random.Random, place: Place, alike: list[Place]) -> str:
    """What another place of the same pattern has."""
    others = [other.value for other in alike if other.value != place.value]
    return place.put(copy.deepcopy(rng.choice(others))) if others else _type(rng, place, alike)


def _remove(rng: random.Random, place: Place, _: list[Place]) -> str:
    removed = place.holder.pop(place.name)
    return f"{place}: {shown(removed)} removed"


def _double(rng: random.Random, place: Place, _: list[Place]) -> str:
    """A list has an item twice, a mapping has it under one more name."""
    twin = copy.deepcopy(place.value)
    if isinstance(place.holder, list):
        place.holder.insert(rng.choice((place.name, len(place.holder))), twin)
    else:
        place.holder[f"{place.name}{rng.choice(('0', '.', '/x', ' '))}"] = twin
    return f"{place}: twice"


def _rename(rng: random.Random, place: Place, _: list[Place]) -> str:
    if isinstance(place.holder, list):
        return _remove(rng, place, [])
    name = rng.choice([f"{place.name}x", "", *_TEXTS[:12], *(name for name in place.holder if name != place.name)])
    place.holder[name] = place.holder.pop(place.name)
    return f"{place}: named {shown(name)}"


def _item(rng: random.Random, place: Place, _: list[Place]) -> str:
    return place.put([*place.value, copy.deepcopy(rng.choice((*_ODD, *_NUMBERS[:8], *place.value)))])


def _repeat(rng: random.Random, place: Place, _: list[Place]) -> str:
    return place.put([copy.deepcopy(item) for item in place.value for _ in range(2)])


def _swap(rng: random.Random, place: Place, _: list[Place]) -> str:
    """Two of its items change places."""
    value = place.value
    names = list(value) if isinstance(value, dict) else list(range(len(value)))
    if len(names) < 2:
        return _empty(rng, place, [])
    a, b = rng.sample(names, 2)
    value[a], value[b] = value[b], value[a]
    return f"{place}: {shown(a)} and {shown(b)} swapped"


def _turn(rng: random.Random, place: Place, _: list[Place]) -> str:
    return place.put(place.value[::-1])


def _long(rng: random.Random, place: Place, _: list[Place]) -> str:
    items = place.value[:4] or [0]
    return place.put(items * (_LONG // len(items)))


def _empty(rng: random.Random, place: Place, _: list[Place]) -> str:
    return place.put(type(place.value)())


def _deep(rng: random.Random, place: Place, _: list[Place]) -> str:
    value = place.value
    for _ in range(rng.choice((1, 2, 50, _DEEP))):
        value = [value] if isinstance(place.value, list) else {"x": value}
    return place.put(value)


def _surplus(rng: random.Random, place: Place, _: list[Place]) -> str:
    name = rng.choice(("x", "", "~", *_TEXTS[2:10]))
    place.value[name] = copy.deepcopy(rng.choice((*_ODD, *place.value.values())))
    return f"{place}: has {shown(name)} as well"


def _many(rng: random.Random, place: Place, _: list[Place]) -> str:
    item = rng.choice(list(place.value.values()) or [0])
    place.value.update({f"x{number:05}": item for number in range(_LONG)})
    return f"{place}: {_LONG} more"
