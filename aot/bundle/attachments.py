"""Attaching documents to a bundle that exists already; its digest stays as it is."""

from pathlib import Path

from aot.bundle import store
from aot.bundle.writer import Writer


def attach(path: Path, kind: str, data: bytes) -> None:
    """Puts an attachment of one of the kinds of `oci.ATTACHMENTS` into a bundle, in place of one that it has.

    The bundle is staged anew beside itself and changes places with it at once, so that it is whole at any moment.
    """
    bundle = store.open(path)
    kept = {name: bundle.read(layer.digest, layer.size) for name, layer in bundle.attachments.items()}
    with Writer.stage(path.resolve()) as writer:  # a link to a bundle stays one
        writer.adopt(bundle)
        writer.seal(bundle.index, {**kept, kind: data})
        writer.swap()
