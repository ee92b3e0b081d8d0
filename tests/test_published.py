"""The published sizes in manifests/: what we make of their configurations against what transformers makes of them."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import ROOT
from PIL import Image

from aot import plan as plans
from aot.builder import build
from aot.models import family
from aot.plan import Plan
from aot.plan import images as images_of
from aot.vision import Size

CLASSES = {"qwen2-vl-2b": "Qwen2VLForConditionalGeneration", "llava-1.5-7b": "LlavaForConditionalGeneration"}
NAMES = pytest.mark.parametrize("name", CLASSES)


def planned(name: str) -> Plan:
    return plans.resolve(plans.read(ROOT / "manifests" / f"{name}.yaml"))


def read(name: str) -> family.ModelConfig:
    plan = planned(name)
    assert plan.model.config is not None
    return family.read(plan.model.config, plan.model.preprocessor)


def torch_model(name: str) -> Any:
    """Transformers' model of the same files, without values."""
    config = transformers.AutoConfig.from_pretrained(ROOT / "manifests" / name)
    with torch.device("meta"):
        return getattr(transformers, CLASSES[name])(config)


@NAMES
def test_parameters_are_those_of_transformers_model(name: str) -> None:
    model = read(name)
    theirs = {family.canonical(path): tuple(each.shape) for path, each in torch_model(name).state_dict().items()}
    tied = {"lm_head.weight"} if model.decoder.tie_embeddings else set()

    assert {path: shape for path, shape in theirs.items() if path not in tied and not model.ignored(path)} == {
        path: tuple(shape) for path, shape in model.stored().items()
    }


@NAMES
def test_all_but_what_is_left_out_of_the_features_is_there(name: str) -> None:
    model = read(name)
    sizes = {family.canonical(path): each.numel() for path, each in torch_model(name).named_parameters()}
    ours = sum(math.prod(shape) for shape in model.parameters().values())
    left_out = sum(size for path, size in sizes.items() if model.ignored(path))

    assert (ours, left_out) == {
        "qwen2-vl-2b": (2_208_985_600, 0),
        "llava-1.5-7b": (7_063_427_072 - left_out, 12_596_224 + 2_048),  # the last layer, and the norm behind it
    }[name]


@NAMES
def test_an_image_has_as_many_tokens_as_in_transformers_processor(name: str) -> None:
    plan = planned(name)
    known = images_of.of(plan)
    assert known is not None

    assert {size: known.tokens(size) for size in images_of.sizes(plan)} == {
        size: theirs(name, size) for size in images_of.sizes(plan)
    }


def theirs(name: str, size: Size) -> int:
    """Image tokens of a picture of a size, by the image processor that the files configure."""
    shown = Image.fromarray(np.zeros((*size, 3), np.uint8))
    fields = json.loads((ROOT / "manifests" / name / "preprocessor_config.json").read_text())
    if name == "qwen2-vl-2b":
        processor = transformers.Qwen2VLImageProcessorPil(**fields)
        grid = processor(images=[shown], return_tensors="np")["image_grid_thw"][0]
        return int(np.prod(grid)) // processor.merge_size**2
    pixels = transformers.CLIPImageProcessorPil(**fields)(images=[shown], return_tensors="np")["pixel_values"]
    side = transformers.AutoConfig.from_pretrained(ROOT / "manifests" / name).vision_config.patch_size
    return int(pixels.shape[2] // side * (pixels.shape[3] // side))


@pytest.mark.parametrize(
    ("name", "combos", "tokens", "programs", "compiles"),
    [
        ("qwen2-vl-2b", 18, {256, 384, 1024}, 177, 59),
        ("llava-1.5-7b", 8, {576}, 132, 44),
    ],
)
def test_plans_of_published_sizes(name: str, combos: int, tokens: set[int], programs: int, compiles: int) -> None:
    plan = planned(name)
    known, counted = images_of.of(plan), build.count(plan)
    assert known is not None

    assert len(plan.combos) == combos
    assert {known.tokens(size) for size in images_of.sizes(plan)} == tokens
    assert (counted.programs, counted.compiles) == (programs, compiles)
