"""The model of one program (`layer`) in a directory of its own, as a user has his."""

import shutil
from pathlib import Path

import layer

LAYER = """\
name: layer
model: {factory: "layer:make", arguments: {factor: 1.5}}
precompile: {batch_size: 4}
platforms: [cpu]
targets: [{cpu: {isa: avx2, threads: 32}}]
"""


def manifest(directory: Path) -> Path:
    """A directory with the model, its weights and its manifest."""
    directory.mkdir(parents=True)
    shutil.copy(layer.__file__, directory)
    (directory / "weight.txt").write_text("0.25")
    (directory / "layer.yaml").write_text(LAYER)
    return directory / "layer.yaml"
