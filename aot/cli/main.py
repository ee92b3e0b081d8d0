"""The command `aot`: its subcommands, and the one place where errors become messages and exit codes."""

import importlib
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from aot import closest
from aot.errors import AotError

_COMMANDS = {
    "plan": "Show every combo that a manifest expands to, and what building it takes.",
    "tune": "Let a device choose how programs are computed, for builds to replay.",
    "build": "Build a bundle from a manifest.",
    "inspect": "Show what is in a bundle.",
    "sign": "Sign a bundle with a private key.",
    "verify": "Check every byte of a bundle against its digest.",
    "check": "Say for every entry whether this machine runs it as built.",
    "run": "Generate text from a bundle.",
    "bench": "Measure a bundle on this machine.",
    "audit": "Build a bundle again, elsewhere, and compare.",
    "diff": "Say which factors made two bundles differ.",
    "explain": "List the factors behind a bundle, a key, a program or an executable.",
    "refresh": "Renew a bundle with the installed jax.",
    "gc": "Make room in the build cache.",
}
_ENDS = """\
\b
Exit codes:
  0    done, or: holds
  1    a failure of the machine: disk full, no permission
  2    command line, manifest, or what either names
  3    no entry of the bundle serves the request
  4    bundle and machine do not fit
  5    a fault inside the bundle, or a signature that does not hold
  6    not reproduced, or: differs
  7    expired
  130  interrupted (143: terminated)

\b
Environment:
  AOT_CACHE_DIR         the build cache; default: ~/.cache/aot
  AOT_STATE_DIR         verified weights; default: ~/.local/state/aot
  AOT_CLIENT            jax: run programs through jax, not by jaxlib alone
  AOT_TODAY             YYYY-MM-DD: ask what will be expired on another day
  CUDA_VISIBLE_DEVICES  GPUs that may be used
  JAX_PLATFORMS         platforms that may be used: cpu, cuda, tpu
"""
INTERRUPTED = 130
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Lazy(click.Group):
    """Imports a command when it is run, so that each costs only what it needs."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            context.fail(f"unknown command {name!r}; {closest.closest_hint(name, _COMMANDS, 'there are')}")
        command: click.Command = importlib.import_module(f"aot.cli.commands.{name}").command
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=_Lazy, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_ENDS
)
@click.version_option(package_name="jax-aot", prog_name="aot")
@click.pass_context
def cli(context: click.Context) -> None:
    """Ahead-of-time compiled inference: build a bundle once, verify it anywhere, serve it without compiling."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(click.UsageError.exit_code)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line and ends the process with its exit code."""
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _end)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")
    try:
        code = run(arguments)
    except _Ended as ended:
        os._exit(
            _fail("interrupted", 128 + ended.number, _given(arguments))
        )  # all is cleaned up, and a further signal would show
    try:
        _flush()
    except OSError:  # said already; what the stream still holds would be refused, and reported, once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; errors go to stderr, a line each, or with --json as a document, and decide the exit code."""
    given = _given(arguments)
    try:
        result: Any = cli.main(arguments, prog_name="aot", standalone_mode=False)
        _flush()
        return result if isinstance(result, int) else 0
    except AotError as error:
        return _fail(str(error), error.exit_code, given)
    except click.UsageError as error:
        return _fail(_misuse(error, given), error.exit_code, given)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED, given)
    except BrokenPipeError:  # whoever read our output has seen enough
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'aot'}: {error.strerror or error}", 1, given)
    except ImportError as error:
        from aot import extras  # which takes a while to import

        return _fail(extras.explain_import(error), 1, given)


class _Ended(BaseException):
    """A signal asked the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _end(number: int, _: object) -> NoReturn:
    """Lets what is under way clean up, undisturbed by a second signal."""
    for each in _ENDING:
        signal.signal(each, lambda *_: None)  # SIG_IGN would make Python speak of one that has come already
    raise _Ended(number)


def _given(arguments: Sequence[str] | None) -> Sequence[str]:
    return sys.argv[1:] if arguments is None else arguments


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _misuse(error: click.UsageError, given: Sequence[str]) -> str:
    """One line that says where to read more."""
    named = f"aot {given[0]}" if given and given[0] in _COMMANDS else "aot"
    message = " ".join(error.format_message().split()).rstrip(".")
    if re.match("[A-Z][a-z]", message):
        message = message[0].lower() + message[1:]
    command = error.ctx.command_path if error.ctx else named  # click knows none while it reads the options
    return f"{command}: {message}; see {command} --help"


def _fail(message: str, code: int, given: Sequence[str]) -> int:
    """Says what went wrong, with --json as one document on stderr, and gives the exit code."""
    if "--json" in given:
        said = {**_parted(message), "exit_code": code}
        faults = [_parted(line) for line in message.splitlines()]
        more = {"faults": faults} if len(faults) > 1 else {}
        click.echo(json.dumps({"error": {**said, **more}}, ensure_ascii=False), err=True)
        return code
    for line in message.splitlines():
        click.echo(line, err=True)
    return code


def _parted(line: str) -> dict[str, str]:
    place, found, message = line.partition(": ")
    return {"place": place, "message": message} if found else {"place": "aot", "message": line}


if __name__ == "__main__":
    main()
