"""tools/fuzz: what it calls a mutant, what it calls a fault, and as many mutants as fit into some seconds."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic
from places import ROOT

from aot.bundle import store, weight_writer, weights
from aot.bundle.writer import Writer
from aot.cli import main

sys.path.insert(0, str(ROOT / "tools"))

from fuzzing import children, judge, mutants, wire
from fuzzing.draft import Source
from fuzzing.mutants import FAMILIES, Mutant, Name
from fuzzing.sound import Sound

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def files(root: Path) -> dict[str, object]:
    """What each file holds, or where it leads."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() and not path.is_symlink() else path.lstat()[0]
        for path in root.rglob("*")
    }


CONFIG = b'{"chat_template":"{{ messages }}"}'
ATTACHED = {"golden": b'{"entries":[{"key":"a"}],"version":1}', "provenance": b'{"subject":[{"name":"bundle"}]}'}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A bundle with every kind of blob, a configuration of its tokenizer and attachments."""
    place = tmp_path_factory.mktemp("sound") / "b"
    plan = weights.plan({path: (array.dtype.name, array.shape) for path, array in synthetic.ARRAYS.items()})
    with Writer.stage(place) as writer:
        for data in (synthetic.PROGRAM, synthetic.EXECUTABLE, synthetic.TOKENIZER, CONFIG):
            writer.add(data)
        index = synthetic.index(weight_writer.write_tensors(writer, plan, synthetic.ARRAYS.items()))
        files = {**index.tokenizer, "tokenizer_config.json": synthetic.blob(CONFIG)}
        writer.publish(replace(index, tokenizer=files), attachments=ATTACHED)
    return Source.of(place)


def test_an_index_that_is_opened_and_closed_is_the_same(source: Source) -> None:
    assert wire.closed(wire.opened(source.index)) == source.index


def test_what_is_changed_nowhere_is_the_sound_bundle(source: Source, tmp_path: Path) -> None:
    source.draft().write(tmp_path / "b")

    assert store.verify(tmp_path / "b").manifest_digest == source.bundle.manifest_digest


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mutant_is_the_same_whenever_it_is_made_and_leaves_the_sound_bundle_as_it_is(
    family: str, source: Source, tmp_path: Path
) -> None:
    number = next(number for number in range(len(FAMILIES)) if Name("vision", number).family == family)
    made = [mutants.write(Name("vision", number), source, tmp_path / each / "b") for each in "ab"]

    assert made[0].said == made[1].said
    assert files(tmp_path / "a" / "b") == files(tmp_path / "b" / "b")
    assert store.verify(source.bundle.path).digest == source.bundle.digest


@pytest.mark.parametrize(
    ("act", "what", "said"),
    [
        (lambda: 1 / 0, "traceback", "ZeroDivisionError: division by zero"),
        (lambda: bytearray(children.MEMORY + (1 << 28)), "traceback", "MemoryError"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "signal", "signal 11: Fatal Python error: Segmentation fault"),
        (lambda: time.sleep(60), "time-out", "over 1 s"),
        (lambda: sys.exit(0), "damage accepted", ""),
    ],
)
def test_what_a_command_must_not_do_is_a_fault(
    act: Callable[[], object], what: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(main, "main", lambda arguments: act() if arguments[0] == "verify" else sys.exit(5))
    monkeypatch.setattr(judge, "SECONDS", 1)
    mutant = Mutant(Name("text", 0), tmp_path, "a bit", damaged=True, free=False, trusted=True)

    found = judge.judge(mutant, Sound("text", tmp_path, ()), None, tmp_path)

    assert [(fault.what, fault.command, fault.said) for fault in found.faults] == [(what, "verify", said)]


@pytest.mark.parametrize(("replayed", "faults"), [(0, ["other tokens"]), (4, ["other tokens"]), (5, []), (6, [])])
def test_other_tokens_are_a_fault_unless_golden_outputs_say_so(
    replayed: int, faults: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def command(arguments: list[str]) -> None:
        if arguments[0] == "run":
            print('{"results": [{"token_ids": [1], "finish_reason": "length"}]}')
        sys.exit(replayed if "--run" in arguments else 0)

    monkeypatch.setattr(main, "main", command)
    mutant = Mutant(Name("text", 0), tmp_path, "a bit", damaged=False, free=False, trusted=True)

    found = judge.judge(mutant, Sound("text", tmp_path, ()), [([2], "length")], tmp_path)

    assert [fault.what for fault in found.faults] == faults


@pytest.mark.thorough
def test_the_mutants_of_some_seconds_are_answered_or_refused(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "tools" / "fuzz", "--seconds", "20", "--directory", tmp_path / "fuzz"]

    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)

    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
