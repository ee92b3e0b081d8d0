"""What a run found, for people: counts, and a row for each distinct fault, the most frequent first."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from fuzzing.judge import Fault, Judged

_NAMES = 3


def table(found: Sequence[Judged], seconds: float) -> Iterator[str]:
    """Its lines."""
    faults = [fault for each in found for fault in each.faults]
    commands = sum(len(each.finished) for each in found)
    yield f"{len(found)} mutants, {commands} commands in {seconds:.0f} s: {len(faults)} faults"
    yield from _codes(found)
    for group in _distinct(faults):
        yield ""
        yield from _group(group)


def _codes(found: Sequence[Judged]) -> Iterator[str]:
    """How often a command gave each exit code, and the seconds that it took in the mean."""
    codes: dict[str, Counter[int]] = defaultdict(Counter)
    seconds: dict[str, list[float]] = defaultdict(list)
    for each in found:
        for command, done in each.finished.items():
            codes[command][done.code] += 1
            seconds[command].append(done.seconds)
    for command, counts in codes.items():
        shown = ", ".join(f"{code}: {count}" for code, count in sorted(counts.items()))
        yield f"{command:12} {sum(seconds[command]) / len(seconds[command]):.3f} s  exit codes {shown}"


def _distinct(faults: Sequence[Fault]) -> list[list[Fault]]:
    groups: dict[tuple[str, ...], list[Fault]] = defaultdict(list)
    for fault in faults:
        groups[fault.what, _kind(fault), fault.place].append(fault)
    return sorted(groups.values(), key=len, reverse=True)


def _kind(fault: Fault) -> str:
    """A message without what differs from mutant to mutant: of a traceback the class of the exception."""
    if fault.what == "traceback" and fault.place:
        return fault.said.partition(":")[0]
    return fault.what if fault.what == "other tokens" else re.sub(r"[0-9a-f]{2,}|\d+", "#", fault.said)


def _group(faults: list[Fault]) -> Iterator[str]:
    first = faults[0]
    counts = Counter(fault.command for fault in faults)
    where = ", ".join(f"{command} {count}" for command, count in counts.most_common())
    yield f"{len(faults)} x {first.what} in {first.place or 'no file of aot'} ({where})"
    yield f"    {first.said}"
    shown: dict[str, str] = {}
    for fault in faults:
        shown.setdefault(fault.mutation, str(fault.name))
    for mutation, name in list(shown.items())[:_NAMES]:
        yield f"    {name}: {mutation[:200]}"
