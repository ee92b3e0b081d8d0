"""`aot verify`."""

from pathlib import Path

import click

from aot.bundle import store
from aot.cli import output


@click.command("verify", epilog=output.examples("aot verify dist/tiny"))
@click.argument("bundle", type=click.Path(path_type=Path))
@output.as_json
def command(bundle: Path, as_json: bool) -> None:
    """Check every byte of BUNDLE against the digests in its index, and print its own."""
    blobs = store.verify(bundle)
    digest = store.open(bundle).digest
    if as_json:
        output.document({"digest": digest, "blobs": blobs})
    else:
        click.echo(f"{blobs} blobs as built")
        click.echo(digest)
