"""`aot check`."""

from pathlib import Path

import click

from aot.bundle import store
from aot.cli import output
from aot.errors import ExpiredError, MachineError
from aot.runtime.fitting import entries, expiry


@click.command("check", epilog=output.examples_epilog("aot check dist/tiny"))
@click.argument("bundle", type=click.Path(path_type=Path))
@output.as_json
def command(bundle: Path, as_json: bool) -> int:
    """Say for every entry of BUNDLE whether this machine runs it as built, would compile it, or cannot run it.

    Read off the index, nothing is loaded; all of its bytes but the weights' are hashed first. Exit code 4 when an entry
    is not ready, 7 when the bundle has expired; that it soon will is said on stderr, eight weeks before.
    """
    index = store.sound(bundle).index
    verdicts = [entries.judge_entry(entry) for entry in entries.entries_of(index, entries.find_place(index))]
    notice = expiry.expiry_notice(f"bundle {bundle}", index.valid_until, expiry.renewal_advice(bundle))
    expired = expiry.has_expired(index.valid_until)
    if as_json:
        rows = [
            {"key": v.entry.combo_key, "phase": v.entry.phase, "verdict": v.verdict, "cause": v.cause} for v in verdicts
        ]
        output.print_document({"entries": rows, "valid_until": index.valid_until, "expired": expired})
    else:
        table = output.empty_table("entry", "phase", "verdict", "cause")
        for v in verdicts:
            table.add_row(v.entry.combo_key[:12], v.entry.phase, v.verdict, v.cause)
        output.console().print(table)
    if notice:
        click.echo(notice, err=True)
    if expired:
        return ExpiredError.exit_code
    return 0 if all(v.verdict == "ready" for v in verdicts) else MachineError.exit_code
