"""`aot sign`."""

from pathlib import Path

import click

from aot.cli import output
from aot.errors import InputError


@click.command(
    "sign",
    epilog=output.examples_epilog(
        "aot sign dist/tiny --key private.pem",
        "aot sign dist/tiny --key private.pem --certificate signer.pem --chain ca.pem",
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key",
    "private_key",
    required=True,
    type=click.Path(path_type=Path),
    help="The private key, PEM, on P-256 to P-521.",
)
@click.option("--password-file", type=click.Path(path_type=Path), help="Holds the password of the key, on one line.")
@click.option("--certificate", type=click.Path(path_type=Path), help="The key's certificate, to sign with as well.")
@click.option(
    "--chain",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Certificates between this one and the root; may be repeated.",
)
@output.as_json
def command(
    bundle: Path, private_key: Path, password_file: Path | None, certificate: Path | None, chain: tuple[Path, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Sign BUNDLE in place, instead of any signature that it has, and print its digest, which stays as it was.

    The signature covers the digest of every blob and lasts through copies and registries.
    """
    if chain and certificate is None:
        raise click.UsageError("--chain leads from a certificate to its root: give --certificate too")
    from aot.bundle import sign, store

    password = None if password_file is None else _password(password_file)
    signature = sign.sign(bundle, private_key, password=password, certificate=certificate, chain=chain)
    digest = store.open(bundle).digest
    if as_json:
        output.print_document({"digest": digest, "signature": signature})
    else:
        click.echo(f"signature {signature}")
        click.echo(digest)


def _password(path: Path) -> bytes:
    try:
        return path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise InputError(f"--password-file {path}: {error.strerror}; give a file with the password") from error
