"""Attention among patches in parts, against NumPy over all at once."""

import jax.numpy as jnp
import numpy as np
import pytest

from aot.models.layers import vit


def attended(query, key, value):
    """Softmax attention of [images, patches, heads, dim], in float64."""
    scores = np.einsum("iqhd,ikhd->ihqk", query, key, dtype=np.float64) * query.shape[-1] ** -0.5
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("ihqk,ikhd->iqhd", shares / shares.sum(-1, keepdims=True), value)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize("patches", [1, 7, 8, 9, 16, 19])
def test_patches_attend_to_all_of_their_image_however_many_attend_at_a_time(patches, platform, monkeypatch):
    monkeypatch.setattr(vit, "QUERIES", 8)
    query, key, value = np.random.default_rng(0).standard_normal((3, 2, patches, 3, 4), np.float32)

    found = vit.attend_patches(jnp.asarray(query), jnp.asarray(key), jnp.asarray(value), platform)

    assert found.shape == query.shape
    assert np.abs(np.asarray(found) - attended(query, key, value)).max() < 1e-5
