"""The published configurations in `manifests`: what we make of them, and what transformers does."""

import json
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import transformers
from oracles import names, records
from PIL import Image
from places import ROOT
from tokenizers import Tokenizer, models, pre_tokenizers

from aot import plan
from aot.builder.lowering import lower
from aot.models.families import family
from aot.plan import Plan, images

MANIFESTS = ("llava-1.5-7b", "qwen2-vl-2b")
UNUSED = {
    "llava-1.5-7b": ("model.vision_tower.post_layernorm.", "model.vision_tower.encoder.layers.23."),
    "qwen2-vl-2b": ("lm_head.",),  # tied
}


def config_of(name: str) -> family.ModelConfig:
    files = (ROOT / f"manifests/{name}/{file}.json" for file in ("config", "preprocessor_config"))
    return family.read_model_config(*(json.loads(file.read_text()) for file in files))


@cache
def planned(name: str) -> Plan:
    return plan.resolve(plan.read_manifest(ROOT / f"manifests/{name}.yaml"))


@pytest.mark.parametrize(("name", "parameters"), [("llava-1.5-7b", 7_050_828_800), ("qwen2-vl-2b", 2_208_985_600)])
def test_parameters_are_those_of_the_model_that_transformers_builds_at_full_size(name: str, parameters: int) -> None:
    state = names.unfolded(records.read(f"published/{name}").made["tensors"])

    config = config_of(name)

    theirs = {key: tuple(shape) for key, shape in state.items() if not key.startswith(UNUSED[name])}
    assert config.stored() == {family.canonical_name(key): shape for key, shape in theirs.items()}
    assert sum(map(math.prod, config.parameters().values())) == parameters
    assert len(theirs) < len(state)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("llava-1.5-7b", (32, 4096, 11008, 32, 32, 32064, 4096, False, 23, 1024, 4096, 16)),
        ("qwen2-vl-2b", (28, 1536, 8960, 12, 2, 151936, 32768, True, 32, 1280, 5120, 16)),
    ],
)
def test_sizes_are_those_that_the_authors_published(name: str, sizes: tuple[Any, ...]) -> None:
    config = config_of(name)
    decoder, seen = config.decoder, getattr(config.encoder, "tower", config.encoder)
    inner = getattr(seen, "inner", None) or seen.mlp_width
    heads = getattr(seen, "heads", None) or seen.num_heads

    text = (decoder.num_layers, decoder.hidden_size, decoder.intermediate_size, decoder.num_heads)
    text += (decoder.num_kv_heads, decoder.vocab_size, decoder.max_positions, decoder.tie_embeddings)
    assert (*text, seen.depth, seen.width, inner, heads) == sizes
    assert decoder.mrope == ((16, 24, 24) if name == "qwen2-vl-2b" else None)


def tokens_of_qwen2_vl(processor: Any, picture: Image.Image) -> int:
    (grid,) = processor(picture)["image_grid_thw"]
    return int(np.prod(grid)) // processor.merge_size**2


def tokens_of_llava(processor: Any, picture: Image.Image) -> int:
    words = Tokenizer(models.WordLevel({"<image>": 0, "?": 1}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    published = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    whole = transformers.LlavaProcessor(processor, tokenizer, **published)
    return list(whole(images=picture, text="<image>")["input_ids"][0]).count(0)


@pytest.mark.parametrize(
    ("name", "count", "shapes"), [("llava-1.5-7b", tokens_of_llava, 1), ("qwen2-vl-2b", tokens_of_qwen2_vl, 4)]
)
def test_each_built_shape_takes_as_many_tokens_as_the_processor_of_transformers_counts(
    name: str, count: Any, shapes: int
) -> None:
    processor = transformers.AutoImageProcessor.from_pretrained(ROOT / "manifests" / name, use_fast=False)
    known, sizes = config_of(name).encoder.images, images.sizes(planned(name))

    assert len(sizes) == shapes
    for size in sizes:
        assert known.tokens(size) == count(processor, Image.new("RGB", (size.width, size.height)))


@pytest.mark.parametrize(
    ("name", "combos", "compiles", "elsewhere", "dropped"),
    [
        # Four shapes of text: embed, place, block, last and prompt of each, undrawn of fork, begin and block of decode;
        # head, draw and decode's embed of 2 batch sizes; `take` of 3 pairs of these for lengths, prompted, logits and
        # the caches of 2 lengths; patch, encode and project. On CUDA and TPU decode is one program.
        ("llava-1.5-7b", 2 * 2 * 2, 8 * 4 + 3 * 2 + 5 * 3 + 3, 7 * 4 + 2 * 2 + 5 * 3 + 3, 0),
        # The same with positions and offset, and positions of decode; patch of 4 image shapes, and encode and project
        # of 3, as two of them have as many patches.
        ("qwen2-vl-2b", 2 * 2 * 5 - 2, 10 * 4 + 4 * 2 + 5 * 3 + 10, 9 * 4 + 2 * 2 + 5 * 3 + 10, 1),
    ],
)
def test_the_manifest_gives_so_many_combos_and_programs(
    name: str, combos: int, compiles: int, elsewhere: int, dropped: int
) -> None:
    made = planned(name)
    counted = lower.count_programs(made)

    assert len(made.combos) == combos
    assert (counted.programs, counted.compiles) == (compiles + 2 * elsewhere, compiles)
    assert len(made.dropped) == dropped
    (footprint,) = counted.footprints
    assert footprint.weights == 2 * sum(map(math.prod, config_of(name).parameters().values()))
