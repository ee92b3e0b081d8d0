"""The command line as people and scripts meet it: help, documents, streams, progress, what it imports."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
import toy
from conftest import TINY, Family, aot, small_manifest

from aot import precompile
from aot.cli import main

COMMANDS = ["plan", "build", "inspect", "verify", "check", "run"]
HEAVY = ["jax", "jaxlib", "flax", "yaml", "pydantic", "orbax", "torch", "transformers"]
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
KEY = re.compile(r"[0-9a-f]{64}")


@pytest.fixture
def document(capfd: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """Runs a command with --json and gives its document, which is all of stdout."""

    def get(*arguments: object, code: int = 0) -> dict:
        found = main.run([*map(str, arguments), "--json"])
        out, err = capfd.readouterr()
        assert (found, out.count("\n")) == (code, 1), err
        return json.loads(out)

    return get


def test_help_of_the_group_names_every_command() -> None:
    done = aot("--help")

    assert done.code == 0
    assert done.err == ""
    assert [line.split()[0] for line in re.findall(r"^  [a-z]+ .*$", done.out, re.MULTILINE)][-6:] == COMMANDS


def test_aot_alone_shows_its_help_and_is_a_usage_error() -> None:
    done = aot()

    assert (done.code, done.out) == (2, "")
    assert done.err == aot("--help").out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_explains_every_option_and_gives_examples(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main.run([command, "--help"]) == 0
    out = capfd.readouterr().out
    options = re.findall(r"^  (?:-\w, )?--[^\n]*(?:\n {6,}[^\n]*)*", out, re.MULTILINE)

    assert options
    assert [option for option in options if not re.search(r"  [A-Z][a-z]* ", option)] == []
    assert f"\n  Examples:\n    aot {command} " in out
    assert max(map(len, out.splitlines())) <= 80


def test_run_has_the_options_that_scripts_rely_on(capfd: pytest.CaptureFixture[str]) -> None:
    main.run(["run", "--help"])
    found = set(re.findall(r"--[a-z-]+", capfd.readouterr().out))
    sampling = {"--temperature", "--top-p", "--top-k", "--min-p"}
    penalties = {"--repetition-penalty", "--presence-penalty", "--frequency-penalty"}
    others = {"--prompt", "--chat", "--prompt-ids", "--max-new-tokens", "--seed", "--stop", "--n", "--logprobs"}

    assert sampling | penalties | others | {"--truncate", "--policy", "--stream", "--json"} <= found


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["pla"], "aot: unknown command 'pla'; did you mean 'plan'?; see aot --help"),
        (["xyz"], "aot: unknown command 'xyz'; there are plan, build, inspect, verify, check, run; see aot --help"),
        (["--jsn"], "aot: no such option"),
        (["build"], "aot build: missing argument 'MANIFEST'; see aot build --help"),
        (["build", "m", "--jobs", "0"], "aot build: invalid value for '--jobs': 0 is not in the range"),
        (["verify", "a", "b"], "aot verify: got unexpected extra argument (b); see aot verify --help"),
        (["run", "b", "--prompt"], "aot: option '--prompt' requires an argument; see aot --help"),
    ],
)
def test_misuse_is_one_line_that_names_the_command(
    arguments: list[str], line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(line)


def test_version_is_that_of_the_distribution() -> None:
    from importlib import metadata

    assert aot("--version").out == f"aot, version {metadata.version('jax-aot')}\n"


@pytest.mark.parametrize("command", ["--help", "build --help", "verify", "check", "inspect"])
def test_what_only_reads_a_bundle_imports_nothing_heavy(tiny_bundle: Path, command: str) -> None:
    code = "import sys; from aot.cli import main; main.run(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    arguments = [*command.split(), *([] if "--help" in command else [str(tiny_bundle)])]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    late = {"yaml", "pydantic"} if command.startswith("build") else set()  # its module reads manifests

    assert done.stdout
    assert loaded & (set(HEAVY) - late) == set()


def test_plan_prints_combos_programs_and_compiles(document: Callable[..., dict]) -> None:
    plan = document("plan", TINY)

    assert list(plan) == ["combos", "programs", "compiles"]
    assert all(list(combo) == ["key", *precompile.FIELDS] for combo in plan["combos"])
    assert all(KEY.fullmatch(combo["key"]) for combo in plan["combos"])
    sizes = [(combo["batch_size"], combo["prefill_length"], combo["max_length"]) for combo in plan["combos"]]
    assert sizes == [(1, 32, 96), (1, 64, 128), (4, 32, 96), (4, 64, 128)]


def stored(inspected: dict) -> dict[str, int]:
    """Distinct programs of a bundle, and distinct (program, target) pairs."""
    entries = inspected["entries"]
    programs = {call for entry in entries for chain in entry["programs"] for call in chain["calls"]}
    executables = [made for entry in entries for made in entry["executables"]]
    return {"programs": len(programs), "compiles": len({(e["program"], json.dumps(e["target"])) for e in executables})}


def counted(plan: dict) -> dict[str, int]:
    return {"programs": plan["programs"], "compiles": plan["compiles"]}


def test_plan_counts_what_a_build_of_several_platforms_stores(tiny_bundle: Path, document: Callable[..., dict]) -> None:
    assert counted(document("plan", TINY)) == stored(document("inspect", tiny_bundle))


def test_plan_counts_what_a_build_for_several_targets_stores(
    small_bundle: Path, tmp_path: Path, document: Callable[..., dict]
) -> None:
    made = stored(document("inspect", small_bundle))

    assert made["compiles"] == 2 * made["programs"]
    assert counted(document("plan", small_manifest(tmp_path))) == made


def test_plan_counts_layers_that_differ_as_a_build_stores_them(
    family: Callable[[str], Family], document: Callable[..., dict]
) -> None:
    mixed = family("qwen2")  # two kinds of layer: with a sliding window and without

    manifest = mixed.checkpoint.parent / "manifest.yaml"
    assert counted(document("plan", manifest)) == stored(document("inspect", mixed.bundle))


UNBUILDABLE = """\
name: later
model: {{checkpoint: {checkpoint}, dtype: float32{quantization}}}
precompile: {{expand: product, prefill_length: [8, 64]{vision}}}
generation: {{max_new_tokens: 8}}
platforms: [cpu, cuda]
targets: [{{cpu: {{}}}}{targets}]
{partition}
"""
VISION = ", vision_included: [false, true], vision_height: 224, vision_width: 224"
PARTITION = 'partition: {mesh: {model: 2}, rules: [[".*", []]], axes: {}}'
PLAIN = {"quantization": "", "vision": "", "targets": "", "partition": ""}


@pytest.mark.parametrize(
    ("change", "remark", "not_counted", "combos", "factors"),
    [
        ({"vision": VISION}, "precompile.vision_included: true cannot be built", "2 of 4 combos", 4, (1, 1)),
        ({"targets": ", {cuda: {device: h200}}"}, "targets[1]: cuda executables cannot be built", None, 2, (1, 2)),
        ({"targets": ", {cpu: {devices: 2}}"}, "targets[1].cpu.devices: cannot", "1 of 2 targets", 2, (1, 1)),
        ({"quantization": ", quantization: int8"}, "model.quantization: 'int8' cannot", "quantized", 2, (0, 0)),
        ({"partition": PARTITION}, "partition: cannot be built", "partitioned", 2, (0, 0)),
    ],
    ids=["vision", "accelerator", "devices", "quantization", "partition"],
)
def test_plan_counts_the_part_it_can_build_and_remarks_on_the_rest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], refused: Callable[..., str],
    change: dict[str, str], remark: str, not_counted: str | None, combos: int, factors: tuple[int, int],
) -> None:  # fmt: skip
    plans = []
    for name, fields in (("plain", PLAIN), ("changed", PLAIN | change)):
        file = tmp_path / f"{name}.yaml"
        file.write_text(UNBUILDABLE.format(checkpoint=TINY.parent / "tiny", **fields))
        assert main.run(["plan", str(file), "--json"]) == 0
        out, err = capfd.readouterr()
        plans.append((json.loads(out), err))
    (plain, _), (changed, remarks) = plans

    assert len(changed["combos"]) == combos
    assert counted(changed) == {
        "programs": factors[0] * plain["programs"],
        "compiles": factors[1] * plain["compiles"],
    }
    assert f"remark: {remark}" in remarks
    assert ("not counted: " in remarks) == (not_counted is not None)
    assert (not_counted or "") in remarks
    assert remark in refused(2, "build", tmp_path / "changed.yaml")


def test_plan_for_people_shows_keys_counts_and_remarks(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(UNBUILDABLE.format(checkpoint=TINY.parent / "tiny", **PLAIN))
    done = aot("plan", file)
    lines = done.out.splitlines()

    assert (done.code, done.err) == (0, "")
    assert lines[0].split() == ["key", "batch_size", "prefill_length", "max_length"]
    assert [KEY.match(line) is not None for line in lines[1:3]] == [True, True]
    assert re.fullmatch(r"2 combos, \d+ programs, \d+ compiles \(cpu avx2, 32 threads\)", lines[3])
    assert lines[4].startswith("remark: prefill_length: requests of 9 to 31 tokens are padded to 64, more than 2x")


def test_inspect_prints_all_that_scripts_need(tiny_bundle: Path, document: Callable[..., dict]) -> None:
    found = document("inspect", tiny_bundle)

    assert list(found) == ["digest", "valid_until", "combos", "entries", "weights"]
    assert found["digest"] == document("verify", tiny_bundle)["digest"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["valid_until"])
    assert found["combos"] == document("plan", TINY)["combos"]
    keys = {combo["key"] for combo in found["combos"]}
    for entry in found["entries"]:
        assert list(entry) == ["key", "phase", "programs", "executables"]
        assert entry["key"] in keys
        assert [chain["platform"] for chain in entry["programs"]] == ["cpu", "cuda", "tpu"]
        for chain in entry["programs"]:
            assert list(chain) == ["platform", "mesh", "calls"]
            assert all(DIGEST.fullmatch(call) for call in chain["calls"])
        on_cpu = set(entry["programs"][0]["calls"])
        assert {made["program"] for made in entry["executables"]} == on_cpu
        for made in entry["executables"]:
            assert list(made) == ["program", "target", "digest", "bytes"]
            assert made["target"] == {"cpu": {"isa": "avx2", "threads": 32}}
            blob = tiny_bundle / "blobs/sha256" / made["digest"].removeprefix("sha256:")
            assert blob.stat().st_size == made["bytes"]


def test_verify_counts_every_blob(tiny_bundle: Path, document: Callable[..., dict]) -> None:
    found = document("verify", tiny_bundle)

    assert list(found) == ["digest", "blobs"]
    assert DIGEST.fullmatch(found["digest"])
    assert found["blobs"] == len(os.listdir(tiny_bundle / "blobs/sha256"))


def test_check_gives_a_verdict_for_every_entry(tiny_bundle: Path, document: Callable[..., dict]) -> None:
    found = document("check", tiny_bundle)
    inspected = document("inspect", tiny_bundle)

    assert list(found) == ["entries"]
    assert [(e["key"], e["phase"]) for e in found["entries"]] == [(e["key"], e["phase"]) for e in inspected["entries"]]
    assert all(list(entry) == ["key", "phase", "verdict", "cause"] for entry in found["entries"])
    assert {entry["verdict"] for entry in found["entries"]} == {"ready"}


def test_run_prints_a_result_for_each_sequence(tiny_bundle: Path, document: Callable[..., dict]) -> None:
    options = ("--max-new-tokens", "3", "--n", "2", "--seed", "7", "--temperature", "1")
    found = document("run", tiny_bundle, "--prompt", "import ", "--prompt-ids", "5,6", *options)
    fields = {"text", "completed", "token_ids", "logprobs", "finish_reason", "prompt_tokens", "entry"}

    assert set(found) == {"results", "compilations", "timings"}
    assert type(found["compilations"]) is int
    assert [set(result) >= fields for result in found["results"]] == [True] * 4
    first, *_, last = found["results"]
    assert first["completed"] == "import " + first["text"]
    assert last["completed"] == [5, 6, *last["token_ids"]]


def test_what_people_read_is_what_scripts_read(
    tiny_bundle: Path, tmp_path: Path, document: Callable[..., dict], capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chat.json").write_text('[{"role": "user", "content": "import what?"}]')
    ask = ("run", str(tiny_bundle), "--max-new-tokens", "8")
    both = ("--prompt", "def main(", "--chat", str(tmp_path / "chat.json"))
    one, other = document(*ask, *both)["results"]
    main.run([*ask, *both])
    printed = capfd.readouterr().out
    main.run([*ask, *both[:2], "--stream"])
    streamed = capfd.readouterr().out
    main.run([*ask, *both[:2], "--stream", "--logprobs"])
    numbers = [line.split("\t") for line in capfd.readouterr().out.removeprefix(streamed).splitlines()]

    assert printed == f"def main({one['text']}\n\n{other['text']}\n"
    assert streamed == one["text"] + "\n"
    assert [int(token) for token, _ in numbers] == one["token_ids"]
    assert [float(logprob) for _, logprob in numbers] == pytest.approx(one["logprobs"], abs=1e-4)


def test_a_build_shows_progress_on_the_terminal_and_ends_stdout_with_the_digest(
    tmp_path: Path, document: Callable[..., dict]
) -> None:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "aot.cli.main", "build", toy.manifest(tmp_path / "toy", programs=3)],
        env={**os.environ, "TERM": "xterm"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=follower,
        text=True,
    )
    os.close(follower)
    shown = read(leader)
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert [step for step in ("weights", "lower", "compile", "publish") if step not in shown] == []
    assert re.search(r"compile .* 3/3 ", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown))
    assert out.splitlines() == ["bundle dist/toy", document("verify", tmp_path / "dist/toy")["digest"]]


def read(leader: int) -> str:
    """All that was written to a terminal."""
    parts = []
    while True:
        try:
            part = os.read(leader, 1 << 16)
        except OSError:  # how Linux says that the other side is closed
            part = b""
        if not part:
            os.close(leader)
            return b"".join(parts).decode()
        parts.append(part)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_has_seen_enough_is_no_error_worth_a_word(tiny_bundle: Path, options: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "aot.cli.main", "inspect", tiny_bundle, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()

    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_output_that_cannot_be_written_is_one_line(tiny_bundle: Path, command: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "aot.cli.main", command, tiny_bundle],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )

    assert (done.returncode, done.stderr) == (1, "aot: No space left on device\n")


def test_text_that_the_terminal_cannot_show_is_escaped(tiny_bundle: Path, tmp_path: Path) -> None:
    place = tmp_path / "b\udcff"
    place.symlink_to(tiny_bundle)
    done = aot("inspect", place, PYTHONIOENCODING="ascii")

    assert done.code == 0, done.err
    assert done.out.startswith(f"bundle {tmp_path}/b\\udcff\n")
