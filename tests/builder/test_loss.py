"""What quantization costs a model: measured at the build, recorded beside the bundle, and said."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import synthetic
from commands import aot
from decoders import config, random

from aot.bundle import attachments, loss, store
from aot.bundle.loss import Loss
from aot.cli.commands import build
from aot.errors import BundleError
from aot.models import divergence
from aot.models.families import names
from aot.models.families.family import ModelConfig
from aot.models.language import LanguageModel
from aot.programs.calls import GenerationOptions

LOSS = Loss("int8", "bfloat16", 96, 0.0123, 0.75)


def model(quantization: str | None, dtype: str = "float32", **changed: Any) -> LanguageModel:
    """A decoder with random parameters, or some of one's own by their paths."""
    decoder = config(tie_word_embeddings=True)
    made = {path: random(*shape) for path, shape in names.parameter_shapes(decoder).items()} | changed
    return LanguageModel(
        ModelConfig(decoder), dtype, GenerationOptions(4, "none", 1), (), lambda: iter(made.items()), quantization
    )


def measured(of: LanguageModel) -> divergence.Divergence:
    tokens = np.arange(16, dtype=np.int32).reshape(2, 8) * 3
    return divergence.measure_divergence(of, tokens, np.array([8, 5], np.int32))


def test_a_quantized_model_diverges_a_little_and_a_model_not_at_all_from_itself() -> None:
    same, narrow = measured(model(None)), measured(model("int8"))

    assert (same.tokens, same.nats, same.alike) == (13, 0.0, 1.0)
    assert narrow.tokens == 13
    assert 0 < narrow.nats < 0.05


def test_what_int8_cannot_hold_diverges_much() -> None:
    spoilt = np.array(random(64, 16))
    spoilt[:, 5] = 100  # of an embedding, whose columns nothing evens: each row's scale is this one's
    norm = np.ones(16, np.float32)
    norm[5] = 0  # so that the head hears only of the others

    found = measured(model("int8", **{"embed/tokens": spoilt, "head/norm": norm}))

    assert found.nats > loss.LARGE


def test_values_that_are_not_finite_give_a_loss_that_is_not() -> None:
    large = np.array(random(64, 16))
    large[3] = 1e6  # beyond float16, and not beyond int8 with its float32 scale

    assert not np.isfinite(measured(model("int8", "float16", **{"embed/tokens": large})).nats)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    synthetic.write(tmp_path / "b")
    return tmp_path / "b"


def test_a_loss_is_read_as_it_was_written_and_leaves_the_digest_as_it_is(bundle: Path) -> None:
    before = store.open(bundle)
    assert loss.read_loss(before) is None

    attachments.attach(bundle, "loss", LOSS.write())

    after = store.open(bundle)
    assert (loss.read_loss(after), after.digest) == (LOSS, before.digest)
    assert store.verify(bundle).digest == before.digest


def test_inspect_says_the_loss(bundle: Path) -> None:
    attachments.attach(bundle, "loss", LOSS.write())

    said = "perplexity +1.24%, 0.012 nats a token, 75.0% of the likeliest tokens alike, over 96 golden tokens"
    assert f"int8 against bfloat16: {said}" in aot("inspect", bundle).out.splitlines()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"version": 2}, "version must be 1, got 2"),
        ({"more": 1}, "it has the unknown field 'more'"),
        ({"nats": -0.5}, "tokens must be at least 1, nats at least 0, and alike from 0 to 1"),
        ({"alike": 1.5}, "tokens must be at least 1, nats at least 0, and alike from 0 to 1"),
        ({"tokens": 0}, "tokens must be at least 1, nats at least 0, and alike from 0 to 1"),
        ({"nats": 1}, "it.nats must be of type float, got 1"),
    ],
)
def test_a_loss_that_is_none_is_refused_by_name(bundle: Path, change: dict[str, Any], cause: str) -> None:
    attachments.attach(bundle, "loss", json.dumps(json.loads(LOSS.write()) | change).encode())

    with pytest.raises(BundleError, match="loss: ") as caught:
        loss.read_loss(store.open(bundle))
    assert cause in str(caught.value)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (LOSS, []),
        (Loss("int8", "bfloat16", 96, 0.26, 0.5), ["int8 costs 0.26 nats a token, more than 0.05"]),
        (None, ["int8 or bfloat16 gives values that are not finite"]),
    ],
)
def test_a_build_remarks_on_a_loss_above_the_bound(found: Loss | None, said: list[str]) -> None:
    plan: Any = SimpleNamespace(model=SimpleNamespace(quantization="int8", dtype="bfloat16"))

    remarks = list(build._costly(plan, found))

    assert len(remarks) == len(said)
    assert all(words in remark for words, remark in zip(said, remarks, strict=True))


def test_a_model_that_is_not_quantized_has_no_loss() -> None:
    plan: Any = SimpleNamespace(model=SimpleNamespace(quantization=None, dtype="bfloat16"))

    assert not list(build._costly(plan, None))
