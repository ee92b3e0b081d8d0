"""The tiny model that sees, through what a user types and calls, against what transformers makes of the same."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from commands import aot, built
from oracles import records
from PIL import Image
from places import ROOT
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import aot as runtime
from aot import vision
from aot.runtime.device import compilations
from aot.runtime.prompting.recipe import Recipe

PAD = "<|image_pad|>"
CHECKPOINT = ROOT / "manifests" / "tiny-vision"
PICTURES = {name: CHECKPOINT / f"{name}.png" for name in ("red-circle", "blue-square", "green-triangle")}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of manifests/tiny-vision.yaml for what runs here, and rows in twos alone."""
    home = tmp_path_factory.mktemp("tiny-vision")
    (home / "tiny-vision").symlink_to(CHECKPOINT)
    manifest = (ROOT / "manifests" / "tiny-vision.yaml").read_text()
    (home / "tiny-vision.yaml").write_text(manifest.replace("[cpu, cuda, tpu]", "[cpu]").replace("[1, 2]", "2"))
    return built(home / "tiny-vision.yaml", home / "bundle")


@dataclass(frozen=True)
class Processor:
    """Transformers' tokenizer with its chat template, and image processor; their class of both wants torchvision."""

    tokenizer: Any
    images: Any

    def ids(self, messages: list[dict[str, Any]]) -> list[int]:
        """A conversation as tokens, with one for each embedding of its images."""
        shown = pictures(messages)
        grids = self.images(shown, return_tensors="np")["image_grid_thw"] if shown else ()
        counts = [int(grid.prod()) // self.images.merge_size**2 for grid in grids]
        first, *others = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False).split(
            PAD
        )
        text = first + "".join(PAD * count + other for count, other in zip(counts, others, strict=True))
        return self.tokenizer(text)["input_ids"]


@pytest.fixture(scope="module")
def processor() -> Processor:
    tokenizer = transformers.AutoTokenizer.from_pretrained(CHECKPOINT)
    return Processor(tokenizer, Qwen2VLImageProcessorPil.from_pretrained(CHECKPOINT))


def opened(name: str) -> Image.Image:
    """A picture beside the checkpoint."""
    with Image.open(PICTURES[name]) as picture:
        return picture.copy()


def pictures(messages: list[dict[str, Any]]) -> list[Image.Image]:
    """Those of a conversation."""
    return [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]


def file(picture: Image.Image) -> str:
    """The name of the file beside the checkpoint that a picture is of."""
    return next(f"{name}.png" for name in PICTURES if opened(name).tobytes() == picture.tobytes())


def asked(question: str, *names: str) -> list[dict[str, Any]]:
    """A conversation of one question about pictures."""
    places = [{"type": "image", "image": opened(name)} for name in names]
    return [{"role": "user", "content": [*places, {"type": "text", "text": question}]}]


def url(path: Path) -> dict[str, Any]:
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def test_it_ships_pictures_of_exactly_the_built_sizes(bundle: Path) -> None:
    combos = aot("inspect", bundle, "--json").document["combos"]

    built_for = {(combo["vision_width"], combo["vision_height"]) for combo in combos if combo.get("vision_width")}
    assert built_for == {opened(name).size for name in PICTURES}


@pytest.mark.parametrize(
    ("question", "names", "answer"),
    [
        ("What colour is it?", ["red-circle"], "red"),
        ("What colour is it?", ["blue-square"], "blue"),
        ("What colour is it?", ["green-triangle"], "green"),
        ("What colour is it?", [], "there is no picture"),
        ("What colour is the first?", ["red-circle", "blue-square"], "red"),
        ("What colour is the first?", ["blue-square", "red-circle"], "blue"),
        ("What colour is the second?", ["blue-square", "red-circle"], "red"),
        ("How many pictures are there?", ["red-circle", "blue-square", "green-triangle"], "three"),
    ],
)
def test_a_chat_from_a_file_gets_the_right_answer(
    question: str, names: list[str], answer: str, bundle: Path, tmp_path: Path
) -> None:
    parts = [*(url(PICTURES[name]) for name in names), {"type": "text", "text": question}]
    (tmp_path / "chat.json").write_text(json.dumps([{"role": "user", "content": parts}]))

    done = aot("run", bundle, "--chat", tmp_path / "chat.json", "--json")

    assert done.code == 0, done.err
    assert [result["text"] for result in done.document["results"]] == [answer]
    assert done.document["compilations"] == 0


@pytest.mark.parametrize(("name", "answer"), [("red-circle", "red"), ("blue-square", "blue")])
def test_a_prompt_beside_an_image_continues_with_the_right_answer(name: str, answer: str, bundle: Path) -> None:
    done = aot("run", bundle, "--prompt", "What colour is it?", "--image", PICTURES[name])

    assert (done.code, done.out) == (0, f"What colour is it? {answer}\n"), done.err
    assert "images brought to" in done.err


def test_a_large_picture_is_brought_to_a_built_shape_and_keeps_its_answer(bundle: Path) -> None:
    large = opened("red-circle").resize((480, 470))

    with runtime.load(bundle) as model:
        result = model.generate(asked("What colour is it?"), images=[large])

    assert result.text == "red"
    assert [(image["width"], image["height"], image["tokens"]) for image in result.images] == [(48, 48, 9)]


CONVERSATIONS = [
    asked("What colour is the sky?"),
    asked("Is it red?", "green-triangle"),
    asked("Which is red?", "red-circle", "blue-square"),
    asked("Which is red?", "blue-square", "red-circle"),
    asked("What colour is the third?", "green-triangle", "red-circle", "blue-square"),
    [
        *asked("How many pictures are there?", "blue-square"),
        {"role": "assistant", "content": [{"type": "text", "text": "one"}]},
        *asked("What colour is it?"),
    ],
]


def test_rows_with_none_to_three_images_in_one_batch_are_transformers_token_for_token(
    bundle: Path, processor: Processor
) -> None:
    oracle = records.read("tiny-vision")
    given = oracle.given["generated"]

    with runtime.load(bundle) as model:
        before = compilations.count_compilations()
        results = model.generate(CONVERSATIONS, max_new_tokens=given["steps"])
        compiled = compilations.count_compilations() - before

    assert [processor.ids(messages) for messages in CONVERSATIONS] == given["ids"]
    assert [list(map(file, pictures(messages))) for messages in CONVERSATIONS] == given["pictures"]
    assert [list(result.token_ids) for result in results] == oracle.made["tokens"]["generated"]
    assert compiled == 0


def test_pixels_are_those_of_transformers_processor(processor: Processor, bundle: Path) -> None:
    with runtime.load(bundle) as model:
        recipe = Recipe(model.bundle.index.images, "bundle")
    for picture in map(opened, PICTURES):
        ours = recipe.pixels(picture, vision.Size(picture.height, picture.width), "picture")

        theirs = processor.images([picture], return_tensors="np")
        rows, columns = theirs["image_grid_thw"][0, 1:]
        patches = theirs["pixel_values"].reshape(rows // 2, columns // 2, 2, 2, 3, 2, 8, 8)[:, :, :, :, :, 0]
        whole = patches.transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, picture.height, picture.width)
        np.testing.assert_allclose(ours, whole, rtol=0, atol=1e-6)
