"""The command line as people meet it: help, misuse, progress, streams that break, what it imports."""

import fcntl
import io
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
from conftest import aot, small_manifest

from aot import plan as plans
from aot.builder import messages, releases
from aot.cli import main

COMMANDS = [
    "plan",
    "tune",
    "build",
    "inspect",
    "sign",
    "verify",
    "check",
    "run",
    "bench",
    "audit",
    "diff",
    "explain",
    "refresh",
    "gc",
]
HEAVY = ["jax", "jaxlib", "flax", "yaml", "pydantic", "orbax", "torch", "transformers"]


def test_help_of_the_group_names_every_command() -> None:
    done = aot("--help")

    assert done.code == 0
    assert done.err == ""
    named = [line.split()[0] for line in re.findall(r"^  [a-z]+ .*$", done.out, re.MULTILINE)]
    assert named[-len(COMMANDS) :] == COMMANDS


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
        (["xyz"], f"aot: unknown command 'xyz'; there are {', '.join(COMMANDS)}; see aot --help"),
        (["--jsn"], "aot: no such option"),
        (["build"], "aot build: missing argument 'MANIFEST'; see aot build --help"),
        (["build", "m", "--jobs", "0"], "aot build: invalid value for '--jobs': 0 is not in the range"),
        (
            ["plan", "m", "--jax-released", "soon"],
            "aot plan: invalid value for '--jax-released': 'soon' does not match",
        ),
        (["explain", "b", "--jax-released", "2026-06-17"], "aot explain: --jax-released is of a rebuild: give --agai"),
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
    loaded = {name.split(".")[0] for name in done.stderr.split() if name not in ("jaxlib", "jaxlib.version")}
    late = {"yaml", "pydantic"} if command.startswith("build") else set()  # its module reads manifests

    assert done.stdout
    assert loaded & (set(HEAVY) - late) == set()


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
    until = f"valid until {releases.installed().valid_until}"
    assert out.splitlines() == ["bundle dist/toy", until, document("verify", tmp_path / "dist/toy")["digest"]]


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


BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_has_seen_enough_is_no_error_worth_a_word(tiny_bundle: Path, options: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "aot.cli.main", "inspect", tiny_bundle, *options],
        env=BUFFERED,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()

    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()


@pytest.mark.parametrize("command", ["inspect", "inspect --json", "verify"])
def test_output_that_cannot_be_written_is_one_line(tiny_bundle: Path, command: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "aot.cli.main", *command.split(), tiny_bundle],
            env=BUFFERED,
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


def test_python_runs_the_package_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "aot", "--version"], capture_output=True, text=True, check=True)

    assert done.stdout == aot("--version").out


@pytest.mark.parametrize("name", ["q[/o1]", ":smile: [bold]x", os.fsdecode(b"caf\xe9")])
@pytest.mark.parametrize("command", ["inspect", "check", "verify"])
def test_names_that_look_like_markup_or_are_not_utf_8_are_shown_as_they_are(
    tiny_bundle: Path, tmp_path: Path, name: str, command: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tiny_bundle)
    done = aot(command, tmp_path / name, PYTHONUTF8="0", LC_ALL="C")

    assert done.code == 0, done.err
    assert command != "inspect" or name.encode(errors="backslashreplace").decode() in done.out


@pytest.mark.parametrize("name", ["q[/o1]", os.fsdecode(b"caf\xe9")])
def test_a_build_takes_such_names_for_its_bundle(tmp_path: Path, name: str) -> None:
    done = aot("build", toy.manifest(tmp_path / "toy"), "-o", tmp_path / name, "--json")

    assert done.code == 0, done.err
    assert aot("verify", tmp_path / name).code == 0


def test_a_plan_whose_checkpoint_has_such_a_name_comes_through_to_a_worker_and_back(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    plan = plans.resolve(plans.read(small_manifest(tmp_path / os.fsdecode(b"caf\xe9"))))
    message = messages.packed({"plan": plan.to_json()})

    assert plans.Plan.from_json(next(messages.received(io.BytesIO(message)))["plan"]) == plan


@pytest.mark.parametrize(("kind", "place"), [("tmpfs", "/dev"), ("proc -o subset=pid", "/proc")])
@pytest.mark.parametrize("policy", ["strict", "compile"])
def test_a_system_that_hides_what_xla_needs_is_a_line(tiny_bundle: Path, kind: str, place: str, policy: str) -> None:
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    script = f'mount -t {kind} none {place} || exit 99; exec "$@"'
    command = ["run", tiny_bundle, "--prompt-ids", "1,2,3", "--max-new-tokens", "4", "--policy", policy]
    shell = [*unshare, "sh", "-c", script, "sh", sys.executable, "-m", "aot", *map(str, command)]
    done = subprocess.run(shell, capture_output=True, text=True)
    if done.returncode in (1, 99) and "aot" not in done.stderr and "Traceback" not in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")

    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 4), done.stderr
    if done.returncode:
        assert re.search("^(devices|entry [0-9a-f]+… prefill): XLA fails (on this machine|here): ", done.stderr, re.M)


@pytest.mark.parametrize("encoding", ["iso-8859-1", "ascii", "utf-8"])
def test_a_document_is_json_in_every_encoding_of_the_terminal(tiny_bundle: Path, encoding: str) -> None:
    ask = ("run", tiny_bundle, "--prompt", "na\u00efve \U0001f600", "--max-new-tokens", "4")
    done = aot(*ask, "--json", PYTHONIOENCODING=encoding)
    printed = subprocess.run(
        [sys.executable, "-m", "aot", *map(str, ask)],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
    )

    assert done.document["results"][0]["completed"].startswith("na\u00efve \U0001f600")
    assert (printed.returncode, printed.stderr) == (0, b"")
    assert printed.stdout.decode(encoding).startswith("na")
