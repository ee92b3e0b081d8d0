"""The command line as people meet it: help, misuse, progress, streams that break, what it imports."""

import fcntl
import io
import json
import math
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
from commands import aot, complaint
from sending import sent

from aot import errors
from aot import plan as plans
from aot.builder.stages import releases
from aot.cli import main, output
from aot.runtime.device import opening
from aot.runtime.fitting import expiry
from manifests import small_manifest

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
        (["pla"], f"aot: unknown command 'pla'; did you mean 'plan'? there are {', '.join(COMMANDS)}; see aot --help"),
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
        (["run", "b", "--prompt"], "aot run: option '--prompt' requires an argument; see aot run --help"),
        (["gc", "--max-sise", "2G"], "aot gc: no such option"),
    ],
)
def test_misuse_is_one_line_that_names_the_command(
    arguments: list[str], line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(line)


@pytest.mark.parametrize(
    ("arguments", "code", "place", "said"),
    [
        (["build"], 2, "aot build", "missing argument 'MANIFEST'"),
        (["run", "b", "--prompt"], 2, "aot run", "option '--prompt' requires an argument"),
        (["verify", "nowhere"], 2, "bundle nowhere", "there is nothing at this path"),
    ],
)
def test_with_json_an_error_is_a_document_on_stderr(
    arguments: list[str], code: int, place: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main.run([arguments[0], "--json", *arguments[1:]]) == code
    out, err = capfd.readouterr()
    error = json.loads(err)["error"]

    assert out == ""
    assert (error["place"], error["exit_code"]) == (place, code)
    assert said in error["message"]


def test_several_faults_are_one_document_with_each_of_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "m.yaml"
    file.write_text("name: a/b\nmodel: {chekpoint: x}\nprecompile: {}\n")
    assert main.run(["plan", str(file)]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert main.run(["plan", str(file), "--json"]) == 2
    error = json.loads(capfd.readouterr().err)["error"]

    assert len(lines) > 1
    assert [f"{fault['place']}: {fault['message']}" for fault in error["faults"]] == lines


def test_help_has_the_exit_codes_and_the_variables_that_are_heeded(capfd: pytest.CaptureFixture[str]) -> None:
    main.run(["--help"])
    out = capfd.readouterr().out
    codes = {error.exit_code for error in (errors.AotError, *subclasses(errors.AotError))}

    assert {int(code) for code in re.findall(r"^ {4}(\d+) ", out, re.MULTILINE)} == codes | {0, main.INTERRUPTED}
    assert {"AOT_CACHE_DIR", "AOT_STATE_DIR", expiry.TODAY_VARIABLE, opening.CLIENT_VARIABLE} <= set(
        re.findall("[A-Z_]{8,}", out)
    )


def subclasses(kind: type) -> list[type]:
    return [each for direct in kind.__subclasses__() for each in (direct, *subclasses(direct))]


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
    assert streamed == f"def main({one['text']}\n"
    assert [int(token) for token, _ in numbers] == one["token_ids"]
    assert [float(logprob) for _, logprob in numbers] == pytest.approx(one["logprobs"], abs=1e-4)


MESSAGES = [{"role": "user", "content": "import what?"}]


class Piped:
    """Stands in for stdin."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def buffer(self) -> io.BytesIO:
        """The whole of it, for each command anew."""
        return io.BytesIO(self._data)

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["def main("], b""),
        (["--prompt", "def main("], b""),
        (["-"], b"def main(\n"),
        ([], b"def main("),
        ([], b"def main(\n"),
    ],
)
def test_a_text_comes_from_the_command_line_or_from_stdin(
    tiny_bundle: Path,
    document: Callable[..., dict],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    stdin: bytes,
) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(stdin))
    (found,) = document("run", tiny_bundle, *arguments, "--max-new-tokens", "2")["results"]

    assert found["completed"] == "def main(" + found["text"]


@pytest.mark.parametrize("stdin", [b"", b"\n", b"\xff"])
def test_no_text_anywhere_is_misuse(
    tiny_bundle: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, stdin: bytes
) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(stdin))
    said = refused(2, "run", tiny_bundle)

    assert ("is not UTF-8" if stdin == b"\xff" else "give a prompt: --prompt TEXT") in said


@pytest.mark.parametrize("given", [MESSAGES, {"messages": MESSAGES}])
@pytest.mark.parametrize("where", ["chat.json", "-"])
def test_a_conversation_is_a_list_or_an_object_in_a_file_or_on_stdin(
    tiny_bundle: Path, tmp_path: Path, document: Callable[..., dict], monkeypatch: pytest.MonkeyPatch, given: object,
    where: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat.json").write_text(json.dumps(given))
    monkeypatch.setattr(sys, "stdin", Piped(json.dumps(given).encode()))
    (found,) = document("run", tiny_bundle, "--chat", where, "--max-new-tokens", "2")["results"]

    assert found["completed"][:-1] == MESSAGES


@pytest.mark.parametrize("options", [[], ["--stream"], ["--json"]])
def test_stats_count_tokens_on_stderr(tiny_bundle: Path, capfd: pytest.CaptureFixture[str], options: list[str]) -> None:
    assert (
        main.run(["run", str(tiny_bundle), "--prompt-ids", "5,6,7", "--max-new-tokens", "4", "--stats", *options]) == 0
    )
    said = capfd.readouterr().err

    assert re.search(r"loaded in [0-9.]+ s; 3 prompt tokens, 4 generated in [0-9.]+ s.*: [0-9.]+ tokens/s\n$", said)
    assert ("the first text after" in said) == (options == ["--stream"])


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

    told = complaint(done.stderr, 1) if "--json" in command else done.stderr.rstrip("\n")
    assert (done.returncode, told) == (1, "aot: No space left on device")


def test_text_that_the_terminal_cannot_show_is_escaped(tiny_bundle: Path, tmp_path: Path) -> None:
    place = tmp_path / "b\udcff"
    place.symlink_to(tiny_bundle)
    done = aot("inspect", place, PYTHONIOENCODING="ascii")

    assert done.code == 0, done.err
    assert done.out.startswith(f"bundle {tmp_path}/b\\udcff\n")


def test_a_document_is_json_whatever_its_numbers_are(capsys):
    output.print_document({"a": math.nan, "b": [1.5, (math.inf, {"c": -math.inf})], "d": "NaN", "e": True})

    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"a": None, "b": [1.5, [None, {"c": None}]], "d": "NaN", "e": True}


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
    plan = plans.resolve(plans.read_manifest(small_manifest(tmp_path / os.fsdecode(b"caf\xe9"))))

    assert sent(plan) == plan


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
    # click takes ASCII for a locale that nobody has set, and writes UTF-8
    assert printed.stdout.decode("utf-8" if encoding == "ascii" else encoding).startswith("na")
