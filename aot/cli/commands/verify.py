"""`aot verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aot.bundle import statement, store, verified
from aot.bundle.store import Bundle
from aot.cli import output, progress
from aot.errors import DifferenceError, MachineError

if TYPE_CHECKING:
    from aot.golden.replay import Replayed

_SIGNED = {"holds": "the signature holds", "not checked": "signed, not checked", "no": "signed: no"}
_CODES = {"differs": DifferenceError.exit_code, "not run": MachineError.exit_code}


@click.command(
    "verify",
    epilog=output.examples_epilog(
        "aot verify dist/tiny", "aot verify dist/tiny --run", "aot verify dist/tiny --key public.pem"
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key", "public_key", type=click.Path(path_type=Path), help="Demand a signature by the pair of this public key."
)
@click.option(
    "--certificate-chain",
    "chain",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Demand a signature by a certificate that leads to this one; may be repeated.",
)
@click.option("--run", is_flag=True, help="Run its golden inputs here, and compare with the outputs recorded.")
@output.as_json
def command(bundle: Path, public_key: Path | None, chain: tuple[Path, ...], run: bool, as_json: bool) -> int:
    """Check every byte of BUNDLE against the digests in its index, and print its own.

    Says whether it is signed, and whether that was checked, for which one of the options below gives a key or a
    certificate. Provenance has to speak about this very bundle; whether it is true, `aot audit` finds out.

    With --run exit code 6 when an entry gives other outputs than recorded, else 4 when one does not run here.
    """
    admit = _admit(public_key, chain)
    with progress.show_waiting(f"hashing {bundle}") as say:
        opened = store.verify(bundle, admit=admit)
        verified.remember(bundle, opened.index.weights, opened.hashed)
        stated = statement.read_statement(opened) is not None
        say(f"running golden inputs of {bundle}")
        replayed = _replayed(opened) if run else ()
    if as_json:
        golden = {"golden": _golden(replayed)} if run else {}
        proven = {"signed": _signed(opened, admit), "provenance": stated}
        output.print_document({"digest": opened.digest, "blobs": len(opened.blobs), **proven, **golden})
    else:
        click.echo(_SIGNED[_signed(opened, admit)])
        if run:
            _print(replayed)
        click.echo(f"{len(opened.blobs)} blobs as built")
        click.echo(opened.digest)
    verdicts = {entry.verdict for entry in replayed}
    return next((code for verdict, code in _CODES.items() if verdict in verdicts), 0)


def _signed(bundle: Bundle, admit: store.Admit | None) -> str:
    """What is known of its signature."""
    if admit is not None:
        return "holds"
    return "not checked" if "signature" in bundle.attachments else "no"


def _replayed(bundle: Bundle) -> tuple["Replayed", ...]:
    from aot.golden import replay as golden

    return golden.replay_golden(bundle)


def _golden(replayed: tuple["Replayed", ...]) -> dict[str, Any]:
    entries = [
        {
            "key": entry.combo_key,
            "phase": entry.phase,
            "verdict": entry.verdict,
            "cause": entry.cause,
            "difference": entry.difference,
            "tolerance": entry.tolerance,
        }
        for entry in replayed
    ]
    return {"entries": entries, "largest_difference": _largest(replayed)}


def _print(replayed: tuple["Replayed", ...]) -> None:
    table = output.empty_table("entry", "phase", "verdict", "difference", "tolerance", "cause")
    for entry in replayed:
        shown = ("" if number is None else f"{number:.2g}" for number in (entry.difference, entry.tolerance))
        table.add_row(entry.combo_key[:12], entry.phase, entry.verdict, *shown, entry.cause)
    output.console().print(table)
    ran = sum(entry.verdict in ("reproduced", "differs") for entry in replayed)
    largest = _largest(replayed)
    click.echo(f"entries run here: {ran}" + ("" if largest is None else f", largest difference {largest:.2g}"))


def _largest(replayed: tuple["Replayed", ...]) -> float | None:
    return max((entry.difference for entry in replayed if entry.difference is not None), default=None)


def _admit(public_key: Path | None, chain: tuple[Path, ...]) -> store.Admit | None:
    if public_key is not None and chain:
        raise click.UsageError("--key and --certificate-chain are two ways to sign: give one of them")
    if public_key is None and not chain:
        return None
    from aot.bundle import sign

    return sign.by_certificate(chain) if public_key is None else sign.by_public_key(public_key)
