"""Pictures end to end: bundles of small random models against what torch gave, and transformers' image processor."""

import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import aot as aot_command
from commands import built
from isolation import served
from oracles import records, values
from oracles.records import Row
from PIL import Image
from transformers import CLIPImageProcessorPil, Qwen2VLImageProcessorPil

import aot
from aot.bench import measuring
from aot.bundle import store
from aot.errors import InputError, NoEntryError
from aot.runtime.device import compilations

MANIFEST = """\
name: sees
model: {checkpoint: checkpoint/, dtype: float32}
precompile:
  - {batch_size: 1, prefill_length: 48}
  - {expand: product, batch_size: 3, prefill_length: 64, vision_included: true, vision_batch_size: [1, 2],
     vision_height: [16, 24], vision_width: [16, 40]}
generation: {max_new_tokens: 6, streaming_chunks: 4, eos_token_id: []}
platforms: [cpu]
"""
UNIT = 8  # pixels of an embedding
SHAPES = ((16, 16), (24, 40))
ORACLE = records.read("qwen2_vl/plain")
START, IMAGE, END = (ORACLE.config[f"{name}_token_id"] for name in ("vision_start", "image", "vision_end"))
SEEN = [START, IMAGE, END]

Picture = Any


@dataclass(frozen=True)
class Sees:
    """A bundle, loaded."""

    bundle: Path
    model: aot.Model


@pytest.fixture(scope="module")
def sees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sees]:
    home = tmp_path_factory.mktemp("sees")
    ORACLE.write(home / "checkpoint")
    Qwen2VLImageProcessorPil(patch_size=UNIT // 2).save_pretrained(home / "checkpoint")
    (home / "sees.yaml").write_text(MANIFEST)
    with aot.load(built(home / "sees.yaml", home / "bundle")) as model:
        yield Sees(home / "bundle", model)


def picture(height: int, width: int, seed: int = 0) -> Picture:
    """Noise, so that whatever is mixed up shows."""
    return Image.fromarray(values.picture(height, width, seed))


def pixels(shown: Picture) -> Any:
    """[channels, height, width] of a picture of one of the built shapes, by transformers' processor."""
    area = shown.height * shown.width
    whole = {"shortest_edge": area, "longest_edge": area}
    # one patch for each pixel, put back into rows: the processor's resizing is a matter of other tests
    processor = Qwen2VLImageProcessorPil(patch_size=1, temporal_patch_size=1, merge_size=1, size=whole)
    made = processor(images=[shown], return_tensors="np")["pixel_values"]
    return made.reshape(shown.height, shown.width, 3).transpose(2, 0, 1)


def spread(ids: Sequence[int], pictures: Sequence[Picture], unit: int = UNIT) -> list[int]:
    """The ids with an image token for each embedding, as transformers wants them."""
    counts = iter([shown.height // unit * (shown.width // unit) for shown in pictures])
    return [each for id in ids for each in [id] * (next(counts) if id == IMAGE else 1)]


def recorded(rows: Sequence[Row], ids: Sequence[int], pictures: Sequence[Picture], unit: int = UNIT) -> list[int]:
    """The next tokens of a row by itself, without a cache, as torch gave them."""
    (row,) = [row for row in rows if row.ids == spread(ids, pictures, unit)]
    for shown, theirs in zip(pictures, row.pixels, strict=True):
        np.testing.assert_allclose(pixels(shown), theirs, rtol=0, atol=1e-6)
    return row.tokens


ROWS = (
    ([7, 11, 13], []),
    ([5, *SEEN, 9], [picture(16, 16)]),
    ([*SEEN, 4, *SEEN, *SEEN, 8], [picture(24, 40), picture(16, 16, 1), picture(24, 40, 2)]),
)


def test_rows_of_no_one_and_three_images_in_one_batch_give_torchs_tokens(sees: Sees) -> None:
    before = compilations.count_compilations()
    results = sees.model.generate([ids for ids, _ in ROWS], images=[shown for _, shown in ROWS])

    assert len({result.entry for result in results}) == 1
    for result, (ids, shown) in zip(results, ROWS, strict=True):
        assert result.token_ids == recorded(ORACLE.rows("served"), ids, shown)
        assert result.prompt_tokens == len(spread(ids, shown))
        assert [(image["height"], image["width"]) for image in result.images] == [(p.height, p.width) for p in shown]
    assert compilations.count_compilations() == before


LLAVA_MANIFEST = """\
name: llava
model: {checkpoint: checkpoint/, dtype: float32}
precompile: {expand: product, batch_size: 3, prefill_length: 64, vision_included: true,
             vision_height: [16, 8], vision_width: [16, 24]}
generation: {max_new_tokens: 4, streaming_chunks: 4, eos_token_id: []}
platforms: [cpu]
"""


def test_llava_gives_torchs_tokens_for_rows_of_no_one_and_three_images(tmp_path: Path) -> None:
    oracle = records.read("llava/plain")
    oracle.write(tmp_path / "checkpoint")
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16).save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "llava.yaml").write_text(LLAVA_MANIFEST)
    strip, square, other = picture(8, 24), picture(16, 16), picture(8, 24, 1)
    rows = (([7, 11], []), ([5, IMAGE, 9], [square]), ([IMAGE, 4, IMAGE, IMAGE], [strip, square, other]))

    with aot.load(built(tmp_path / "llava.yaml", tmp_path / "bundle")) as model:
        results = model.generate([ids for ids, _ in rows], images=[shown for _, shown in rows])

    for result, (ids, shown) in zip(results, rows, strict=True):
        assert result.token_ids == recorded(oracle.rows("served"), ids, shown, unit=4)


def test_a_text_is_served_by_the_programs_without_vision(sees: Sees) -> None:
    (alone,) = sees.model.generate([ROWS[0][0]])
    (shown,) = sees.model.generate([ROWS[1][0]], images=[ROWS[1][1]])

    included = [dimensions(sees)[result.entry]["vision_included"] for result in (alone, shown)]
    assert included == [False, True]


def dimensions(sees: Sees) -> dict[str, Mapping[str, Any]]:
    """Those of each combo, by its key."""
    return {combo.key: combo.dimensions for combo in sees.model.bundle.index.combos}


def test_several_sequences_share_the_prefill_of_their_images(sees: Sees) -> None:
    ids, shown = ROWS[2]
    both = sees.model.generate(ids, images=shown, n=2, temperature=0.9, seed=3)
    (twice,) = sees.model.generate([ids], images=[shown], n=1, temperature=0.9, seed=3)

    assert both[0].token_ids == twice.token_ids != both[1].token_ids


def test_a_phase_may_be_called_by_itself(sees: Sees) -> None:
    shown = picture(24, 40)

    outputs = sees.model.call("encode", pixels=pixels(shown)[None])

    theirs = ORACLE.embeddings[ORACLE.given["images"].index([24, 40, 0])]
    assert np.abs(outputs["embeddings"][0] - theirs).max() < 1e-5
    with pytest.raises(NoEntryError, match=r"no entry takes images of the shape \[None, 3, 24, 24\]|shape \[1, 3, 24"):
        sees.model.call("encode", pixels=np.zeros((1, 3, 24, 24), np.float32))


def test_a_phase_takes_no_image_token_without_embeddings_and_no_pixel_that_is_no_number(sees: Sees) -> None:
    ids = [7, *spread(SEEN, [picture(16, 16)]), 9]

    for held in ({"tokens": [ids], "lengths": [len(ids)]}, {"tokens": [ids * 4], "lengths": [4 * len(ids)]}):
        with pytest.raises(InputError, match=rf"tokens: has the image token {IMAGE}, and no `embeddings` are given"):
            sees.model.call("prefill", **held)
    spoiled = pixels(picture(16, 16))[None].copy()
    spoiled[0, 1, 2, 3] = np.nan
    with pytest.raises(InputError, match="input pixels: has a value that is not a finite float32"):
        sees.model.call("encode", pixels=spoiled)
    with pytest.raises(InputError, match="input pixels has a value beyond float32"):
        sees.model.call("encode", pixels=np.full(spoiled.shape, 1e300))


@pytest.mark.parametrize(
    ("ids", "shown", "error", "words"),
    [
        ([*SEEN * 5, 1], [picture(24, 40)] * 5, NoEntryError, "86 prompt tokens exceed|tokens exceed the largest"),
        ([1, 2], [picture(16, 16)], InputError, "has 1 images, it gives 0 image tokens"),
        (SEEN, [b"GIF89a"], InputError, "image 0: has a damaged GIF header"),
        (SEEN, ["https://example.org/a.png"], InputError, "is on another machine"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_line(sees: Sees, ids, shown, error, words) -> None:
    with pytest.raises(error, match=words) as caught:
        sees.model.generate(ids, images=shown)

    assert "\n" not in str(caught.value)


SCRIPT = """
with aot.load(sys.argv[1]) as model:
    result = model.generate(json.loads(sys.argv[4]), images=[sys.argv[5]])
print(json.dumps({"tokens": result.token_ids, "images": result.images, "seen": seen()}))
"""


def test_an_image_is_served_without_the_builders_packages_and_without_compiling(sees: Sees, tmp_path: Path) -> None:
    ids, (shown,) = ROWS[1]
    shown.save(tmp_path / "picture.png")

    told = served(SCRIPT, sees.bundle, tmp_path / "dump", json.dumps(ids), tmp_path / "picture.png")

    assert told["seen"] == {"compilations": 0, "dumped": 0, "jax": False}
    assert told["images"] == [{"height": 16, "width": 16, "tokens": 4}]
    assert told["tokens"] == recorded(ORACLE.rows("served"), ids, [shown])


def test_a_bundle_that_sees_is_measured_with_a_text(sees: Sees) -> None:
    trial = measuring._trial(store.open(sees.bundle), measuring.BenchOptions(1, None, None, "once"))

    assert IMAGE in measuring.prompt_ids(len(trial.prompt), 96)  # of the same vocabulary, without images
    assert len(sees.model.generate(list(trial.prompt), max_new_tokens=1).token_ids) == 1


MESH = (
    "partition: {mesh: {data: 3, model: 2}, axes: {batch: data, head: model, kv_head: model, mlp: model, vocab: model}}"
)


@pytest.mark.slow
def test_a_mesh_sees_what_one_device_sees(sees: Sees, tmp_path: Path) -> None:
    blind = "  - {batch_size: 1, prefill_length: 48}\n"
    assert blind in MANIFEST
    shutil.copytree(sees.bundle.parent / "checkpoint", tmp_path / "checkpoint")
    (tmp_path / "mesh.yaml").write_text(MANIFEST.replace(blind, "") + MESH)
    mesh = built(tmp_path / "mesh.yaml", tmp_path / "mesh")
    ids, shown = ROWS[2]
    for number, each in enumerate(shown):
        each.save(tmp_path / f"{number}.png")
    pictures = [word for number in range(len(shown)) for word in ("--image", tmp_path / f"{number}.png")]

    done = aot_command("run", mesh, "--prompt-ids", ",".join(map(str, ids)), *pictures, "--json")

    assert done.code == 0, done.err
    assert done.document["compilations"] == 0
    (result,) = done.document["results"]
    assert result["token_ids"] == sees.model.generate(ids, images=shown).token_ids


def drawn(rng: random.Random) -> tuple[list[int], list[Picture]]:
    """A row of some words and pictures of any size, often more than an entry holds."""
    pictures = [
        picture(rng.randint(1, 90), rng.randint(1, 90), rng.randint(0, 9)) for _ in range(rng.choice([0, 0, 1, 2, 3]))
    ]
    parts = [[rng.randint(2, 80)] for _ in range(rng.randint(1, 40))] + [SEEN] * len(pictures)
    rng.shuffle(parts)
    return [id for part in parts for id in part], pictures


@pytest.mark.parametrize("requests", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_sizes_at_random_never_compile_never_meet_a_smaller_entry_and_never_mix_rows(sees: Sees, requests: int) -> None:
    rng, before, refused = random.Random(0), compilations.count_compilations(), 0
    pool = [drawn(rng) for _ in range(60)]
    alone: dict[int, list[int] | None] = {}
    for row, (ids, shown) in enumerate(pool):
        alone[row] = tokens(sees, [(ids, shown)])
    for _ in range(requests):
        rows = rng.choices(range(len(pool)), k=rng.randint(1, 5))
        made = tokens(sees, [pool[row] for row in rows])
        expected = [alone[row] for row in rows]
        if None in expected:
            refused += 1
            assert made is None
        else:
            assert made == [id for ids in expected if ids is not None for id in ids]

    assert compilations.count_compilations() == before
    assert 0 < refused < requests


def tokens(sees: Sees, rows: Sequence[tuple[list[int], list[Picture]]]) -> list[int] | None:
    """The tokens of all rows in their order; None where an entry is missing. Entries are no smaller than their rows."""
    try:
        results = sees.model.generate([ids for ids, _ in rows], images=[shown for _, shown in rows], max_new_tokens=2)
    except NoEntryError:
        return None
    for result in results:
        sizes = dimensions(sees)[result.entry]
        assert sizes["prefill_length"] >= result.prompt_tokens
        assert sizes["max_length"] >= result.prompt_tokens + 2
        assert sizes["vision_included"] or not result.images
    return [id for result in results for id in result.token_ids]
