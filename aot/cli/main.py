"""The command `aot`: its subcommands, and the one place where errors become messages and exit codes."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from aot.errors import AotError

_COMMANDS = {
    "plan": "Show every combo that a manifest expands to, and what building it takes.",
    "build": "Build a bundle from a manifest.",
    "inspect": "Show what is in a bundle.",
    "verify": "Check every byte of a bundle against its digest.",
    "check": "Say for every entry whether this machine runs it as built.",
    "run": "Generate text from a bundle.",
}
INTERRUPTED = 130


class _Lazy(click.Group):
    """Imports a command when it is run, so that each costs only what it needs."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"aot.cli.{name}").command
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="jax-aot", prog_name="aot")
def cli() -> None:
    """Ahead-of-time compiled inference: build a bundle once, verify it anywhere, serve it without compiling."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line and ends the process with its exit code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; errors go to stderr, a line each, and decide the exit code."""
    try:
        result: Any = cli.main(arguments, prog_name="aot", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except AotError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted; nothing was written", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}", 1)
    except ImportError as error:
        return _fail(f"{error.name or error}: is not installed; install it with: pip install 'jax-aot[build]'", 1)


def _fail(message: str, code: int) -> int:
    for line in message.splitlines():
        click.echo(line, err=True)
    return code


if __name__ == "__main__":
    main()
