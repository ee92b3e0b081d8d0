"""An Orbax checkpoint builds to what the same weights in safetensors build to."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest
from commands import aot, built
from places import TINY

from aot.bundle import store
from aot.models.checkpoints import checkpoint
from aot.models.families import names
from aot.models.families.config import DecoderConfig
from manifests import SMALL_MANIFEST


def parameters(directory: Path) -> dict[str, Any]:
    """The weights of a checkpoint as nested dicts under our parameter paths."""
    config = checkpoint.read_config(directory)
    tree: dict[str, Any] = {}
    for path, array in checkpoint.checkpoint_tensors(directory, config, "float32"):
        *parents, name = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[name] = jnp.asarray(array)
    assert len(names.parameter_shapes(DecoderConfig.from_huggingface(config))) > 10
    return tree


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training checkpoint of the tiny model: weights, and an optimizer's state beside them."""
    made = tmp_path_factory.mktemp("orbax")
    weights = parameters(TINY.parent / "tiny")
    state = {"params": weights, "optimizer": {"mu": weights, "count": jnp.int32(7)}, "step": 12}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(made / "trained", state)
    return made


def manifest(home: Path, **fields: str) -> Path:
    tiny = str(TINY.parent / "tiny")
    model = {"checkpoint": "trained/", "dtype": "float32", "config": tiny, "tokenizer": tiny} | fields
    text = SMALL_MANIFEST.replace("{checkpoint: tiny/, dtype: float32}", json.dumps(model))
    assert text != SMALL_MANIFEST
    path = home / "manifest.yaml"
    path.write_text(text)
    return path


def test_the_same_weights_give_the_same_bundle_from_orbax_as_from_safetensors(home: Path, small_bundle: Path) -> None:
    bundle = built(manifest(home), home / "bundle")

    assert store.open(bundle).index == store.open(small_bundle).index
    assert store.open(bundle).digest == store.open(small_bundle).digest
    statement = json.loads(store.open(bundle).attachment("provenance") or b"")
    named = {item.get("name") for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert {"config/config.json", "config/generation_config.json", "checkpoint/_METADATA"} <= named


def test_a_checkpoint_with_the_weights_elsewhere_is_refused_before_anything_is_built(home: Path) -> None:
    done = aot("build", manifest(home, subtree="parms"), "-o", home / "refused")

    assert (done.code, done.out) == (2, "")
    assert "manifest.yaml:2: model.checkpoint: " in done.err
    assert "nothing lies under 'parms'; did you mean 'params'?" in done.err
    assert not (home / "refused").exists()
