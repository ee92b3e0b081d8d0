"""Whether what commands make of a mutant is right: an answer, or a refusal by a message."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aot.errors import BundleError, DifferenceError
from fuzzing import children
from fuzzing.children import Finished
from fuzzing.mutants import Mutant, Name
from fuzzing.sound import ROOT, Sound

COMMANDS = ("inspect", "check", "verify", "run", "diff")
REPLAY = "verify --run"
"""Asked of a mutant that gives other tokens than the sound bundle: its golden outputs may say that they are."""
_SAID = (BundleError.exit_code, DifferenceError.exit_code)
SECONDS = 20.0

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Fault:
    """What a command does of a mutant and must not."""

    what: str
    """traceback, signal, time-out, damage accepted or other tokens."""
    name: Name
    mutation: str
    command: str
    said: str
    """The last line of a traceback, or what tells the fault."""
    place: str
    """The file and line in aot where it came about, where that is known."""


@dataclass(frozen=True)
class Judged:
    """A mutant that has been through all commands."""

    name: Name
    finished: Mapping[str, Finished]
    """What each command gave."""
    faults: tuple[Fault, ...]

    def brief(self) -> "Judged":
        """The same without what commands printed."""
        return replace(self, finished={name: replace(done, out="", err="") for name, done in self.finished.items()})


def tokens(done: Finished) -> Any:
    """The token ids that `aot run --json` printed, and why each row ended; None where it was refused."""
    if done.code:
        return None
    try:
        return [(result["token_ids"], result["finish_reason"]) for result in json.loads(done.out)["results"]]
    except ValueError:
        return done.out


def arguments(command: str, root: Path, sound: Sound, number: int) -> list[str]:
    """Of a command; every second mutant has its document, the others what people see."""
    document = ["--json"] if number % 2 else []
    if command == "run":
        return ["run", str(root), *sound.request]
    if command == "diff":
        return ["diff", *map(str, (sound.path, root) if number % 2 else (root, sound.path))]
    return [command, str(root), *document]


def judge(mutant: Mutant, sound: Sound, right: Any, scratch: Path) -> Judged:
    """Runs the commands over a mutant. `right` are the tokens of the sound bundle."""
    chosen = [command for command in COMMANDS if mutant.trusted or command != "run"]
    finished = {
        command: _run(arguments(command, mutant.root, sound, mutant.name.number), scratch) for command in chosen
    }
    if "run" in finished and tokens(finished["run"]) not in (None, right) and not mutant.free:
        finished[REPLAY] = _run(["verify", str(mutant.root), "--run"], scratch)
    faults = [fault for command, done in finished.items() for fault in _faults(mutant, command, done)]
    if REPLAY in finished and finished[REPLAY].code not in _SAID:
        said = f"{tokens(finished['run'])} for {right}"
        faults.append(Fault("other tokens", mutant.name, mutant.said, "run", said, ""))
    return Judged(mutant.name, finished, tuple(faults))


def _run(arguments: list[str], scratch: Path) -> Finished:
    return children.run(arguments, SECONDS, {"AOT_STATE_DIR": str(scratch)})


def _faults(mutant: Mutant, command: str, done: Finished) -> Iterator[Fault]:
    if done.late:
        yield Fault(
            "time-out",
            mutant.name,
            mutant.said,
            command,
            f"over {SECONDS:.0f} s",
            _first(done.err, "most recent call first"),
        )
    elif done.code < 0:
        yield Fault("signal", mutant.name, mutant.said, command, _signal(done), _first(done.err, "Current thread"))
    elif _TRACEBACK in done.err:
        said, place = _last(done.err)
        yield Fault("traceback", mutant.name, mutant.said, command, said, place)
    elif command == "verify" and mutant.damaged and done.code == 0:
        yield Fault("damage accepted", mutant.name, mutant.said, command, done.out.strip()[-80:], "")


def _signal(done: Finished) -> str:
    lines = [line for line in done.err.splitlines() if line.strip() and not line.startswith((" ", "Current", "Thread"))]
    return f"signal {-done.code}: {(lines or [''])[0][:160]}"


def _first(err: str, mark: str) -> str:
    """The innermost place in aot of the last thread behind a mark that faulthandler printed."""
    return next(iter(_places(err.rpartition(mark)[2])), "")


def _last(err: str) -> tuple[str, str]:
    """The last line of the last traceback, and the innermost place in aot."""
    text = err.rpartition(_TRACEBACK)[2]
    lines = [line for line in text.splitlines()[1:] if line and not line.startswith(" ")]
    return (lines or [""])[0][:200], (_places(text) or [""])[-1]


def _places(text: str) -> list[str]:
    home = f"{ROOT / 'aot'}/"
    return [f"aot/{path.removeprefix(home)}:{line}" for path, line in _FRAME.findall(text) if path.startswith(home)]
