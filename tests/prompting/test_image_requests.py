"""Requests with images, up to the ids and pixels that the programs take: a tokenizer made by hand, no bundle."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from aot.errors import InputError, NoEntryError
from aot.runtime import options, requests
from aot.runtime.prompting.prompts import Reader
from aot.runtime.prompting.recipe import Recipe
from aot.runtime.prompting.text import TextTokenizer
from aot.runtime.sequence import RunningSequence
from aot.vision import Images, Size

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<s>"]
SPELLED = {"qwen2_vl": "<|vision_start|><|image_pad|><|vision_end|>", "llava": "<image>\n", "none": ""}
STEPS = (
    {"step": "convert", "mode": "RGB"},
    {"step": "resize", "resample": "bicubic", "fit": "stretch"},
    {"step": "rescale", "factor": 1 / 255},
)
SIZES = (Size(16, 16), Size(16, 32), Size(32, 16))
TOKENS = {(16, 16): 4, (16, 32): 8, (32, 16): 8}  # squares of 8 pixels


def tokenizer(bos=False):
    letters = {letter: id for id, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = tokenizers.Tokenizer(models.BPE(letters, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    made.add_tokens([AddedToken("<image>", special=False, normalized=False)])  # as older LLaVA checkpoints have it
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
        )
    return made


ID = tokenizer().token_to_id
START, PAD, END, IMAGE = map(ID, ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<image>"))
VOCABULARY = tokenizer().get_vocab_size()


def images(family="qwen2_vl"):
    if family == "qwen2_vl":
        return Images(PAD, (START,), (END,), 8, 0, 3, "grid", STEPS)
    return Images(IMAGE, (), (), 8, 0, 3, "sequence", STEPS)


def template(family):
    return TEMPLATE.replace("'IMAGE'", "''").replace("IMAGE", f"{{{{ {SPELLED[family]!r} }}}}")


def text(family="qwen2_vl", bos=False):
    config = json.dumps({"chat_template": template(family), "bos_token": "<s>"}).encode()
    kept = images("llava" if family == "llava" else "qwen2_vl")
    reserved = (kept.token, *kept.before, *kept.after)
    given = {"tokenizer.json": tokenizer(bos).to_str().encode(), "tokenizer_config.json": config}
    return TextTokenizer.from_files(given, "bundle tiny", reserved)


def reader(family="qwen2_vl", bos=False, sizes=SIZES):
    recipe = Recipe(images("llava" if family == "llava" else "qwen2_vl"), "bundle tiny")
    return Reader(lambda: text(family, bos), VOCABULARY, recipe, sizes)


def letters(string):
    return tokenizer().encode(string).ids


def picture(height=20, width=20, shade=0):
    return Image.new("RGB", (width, height), (shade, 10, 20))


def shown(count, family="qwen2_vl"):
    """The ids of an image of so many tokens, with what stands around it."""
    kept = images(family)
    return [*kept.before, *[kept.token] * count, *kept.after]


def shades(prepared):
    """The red of each image, as its pixels have it."""
    return [round(float(image.pixels[0, 0, 0]) * 255) for image in prepared.images]


def user(*parts, role="user"):
    return {"role": role, "content": list(parts)}


def words(string):
    return {"type": "text", "text": string}


PLACE = {"type": "image"}


@pytest.mark.parametrize("family", ["qwen2_vl", "llava"])
@pytest.mark.parametrize("bos", [False, True])
def test_beside_a_text_images_stand_before_it_and_after_what_the_tokenizer_adds(family, bos):
    given = [picture(20, 20, 1), picture(20, 40, 2), picture(40, 20, 3)]

    prepared = reader(family, bos).read("what?", 0, given)

    begin = [ID("<s>")] if bos else []
    seen = [*shown(4, family), *shown(8, family), *shown(8, family)]
    assert prepared.ids == [*begin, *seen, *letters("what?")]
    assert shades(prepared) == [1, 2, 3]
    assert [image.size for image in prepared.images] == [Size(16, 16), Size(16, 32), Size(32, 16)]
    assert [image.tokens for image in prepared.images] == [4, 8, 8]
    assert [image.pixels.shape for image in prepared.images] == [(3, 16, 16), (3, 16, 32), (3, 32, 16)]


def test_images_may_come_with_an_empty_text():
    assert reader(bos=True).read("", 0, [picture()]).ids == [ID("<s>"), *shown(4)]
    assert reader().read("", 0, [picture()]).ids == shown(4)


@pytest.mark.parametrize("family", ["qwen2_vl", "llava"])
@pytest.mark.parametrize("spelled", ["<|image_pad|>", "<image>", "a<|vision_start|><|image_pad|><|vision_end|>b"])
def test_text_that_spells_an_image_token_stays_text(family, spelled):
    kept = images(family)

    for prompt in (
        spelled,
        [{"role": "user", "content": spelled}],
        [user(words(spelled), words("<im"), words("age>"))],
    ):
        prepared = reader(family).read(prompt, 0)

        assert {kept.token, *kept.before, *kept.after}.isdisjoint(prepared.ids)
        assert spelled in text(family).decode(prepared.ids)


@pytest.mark.parametrize(("family", "token"), [("qwen2_vl", "<|image_pad|>"), ("llava", "<image>")])
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["a", "token", *SIZES]), max_size=4), min_size=1, max_size=3),
)
def test_conversations_are_spelled_as_transformers_spells_them(family, token, turns):
    """Theirs has an X where ours has text, which may be the name of the image token."""
    given = {"a": "a", "token": token}
    messages = [
        user(
            *(
                words(given[each]) if isinstance(each, str) else {"type": "image", "image": picture(*each)}
                for each in turn
            )
        )
        for turn in turns
    ]
    plain = [user(*(words("X") if isinstance(each, str) else PLACE for each in turn)) for turn in turns]
    sizes = [each for turn in turns for each in turn if not isinstance(each, str)]
    texts = iter([given[each] for turn in turns for each in turn if isinstance(each, str)])

    prepared = reader(family).read(messages, 0)

    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer(), chat_template=template(family))
    first, *others = theirs.apply_chat_template(plain, tokenize=False, add_generation_prompt=True).split(token)
    spelled = first + "".join(token * TOKENS[size] + other for size, other in zip(sizes, others, strict=True))
    (cross,) = letters("X")
    expected = [[id] if id != cross else plainly(next(texts)) for id in theirs.encode(spelled)]
    assert prepared.ids == [id for ids in expected for id in ids]
    assert [image.size for image in prepared.images] == sizes


def plainly(string):
    """The ids of a string in which nothing is special."""
    return [id for letter in string for id in letters(letter)]


def test_ids_are_those_of_transformers_own_processor():
    side = Size(16, 16)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=side._asdict(), do_center_crop=False, do_normalize=False),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer()),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("llava"),
    )
    messages = [
        user(words("a"), {"type": "image", "image": picture(20, 40, 7)}, words("b")),
        {"role": "assistant", "content": [words("c")]},
        user({"type": "image", "image": picture(9, 9, 8)}, {"type": "image", "image": picture(9, 9, 9)}),
    ]

    prepared = reader("llava", sizes=(side,)).read(messages, 0)

    theirs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="np"
    )
    assert prepared.ids == theirs["input_ids"][0].tolist()
    np.testing.assert_array_equal(np.stack([image.pixels for image in prepared.images]), theirs["pixel_values"])


def test_every_spelling_of_an_image_part_is_read(tmp_path):
    file = tmp_path / "picture.png"
    picture(shade=5).save(file)
    inline = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": inline}},
        {"type": "image_url", "image_url": {"url": inline, "detail": "low"}},
        {"type": "image_url", "image_url": inline},
        {"type": "image", "path": inline},
        {"type": "image", "url": inline},
        {"type": "image", "image": picture(shade=6)},
        {"type": "image", "image": np.asarray(picture(shade=7))},
        {"type": "image", "image": file.read_bytes()},
    ]

    prepared = reader().read([user(*parts)], 0)

    assert shades(prepared) == [5, 5, 5, 5, 5, 6, 7, 5]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "/etc/passwd"}},
        {"type": "image_url", "image_url": "file:///etc/passwd"},
        *({"type": "image", name: "/etc/passwd"} for name in ("image", "path", "url")),
        {"type": "image", "path": Path("/etc/passwd")},
    ],
)
def test_a_conversation_has_no_file_read(part):
    with pytest.raises(InputError, match=r"prompt 0: image 0: is a path, .*give a data URL, or") as caught:
        reader().read([user(part)], 0)

    assert "root" not in str(caught.value)


def test_images_beside_a_conversation_fill_its_places_in_order():
    own = {"type": "image", "image": picture(shade=5)}
    messages = [user(PLACE, own, words("a")), user(words("b"), PLACE)]

    prepared = reader().read(messages, 0, [picture(shade=1), picture(shade=2)])

    assert shades(prepared) == [1, 5, 2]
    assert messages == [user(PLACE, own, words("a")), user(words("b"), PLACE)]


@pytest.mark.parametrize("content", ["b", [words("b")]])
def test_without_places_they_stand_before_the_text_of_the_last_user(content):
    own = user({"type": "image", "image": picture(shade=5)}, words("a"))
    messages = [own, {"role": "user", "content": content}, {"role": "assistant", "content": "c"}]

    prepared = reader().read(messages, 0, [picture(shade=1), picture(shade=2)])

    places = {"type": "image", "image": picture(shade=1)}, {"type": "image", "image": picture(shade=2)}
    spelled = reader().read([own, user(*places, words("b")), messages[2]], 0)
    assert (prepared.ids, shades(prepared)) == (spelled.ids, [5, 1, 2])


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_one_image_token_in_token_ids_is_spread_over_the_image(kind):
    ids = kind([1, PAD, 2, PAD, 3])

    prepared = reader().read(ids, 0, [picture(20, 40), picture(20, 20)])

    assert prepared.ids == [1, *[PAD] * 8, 2, *[PAD] * 4, 3]


@pytest.mark.parametrize(
    ("prompt", "beside", "words"),
    [
        ([1, 2], 1, "has 1 images, it gives 0 image tokens (259); there must be one for each"),
        ([1, PAD, PAD], 1, "has 1 images, it gives 2 image tokens"),
        ([PAD], 0, "has 0 images, it gives 1 image tokens"),
        ([user(PLACE, PLACE)], 1, "1 images for 2 parts {'type': 'image'}; give one for each"),
        ([user(PLACE)], 0, "0 images for 1 parts"),
        ([user(words("a"), role="system")], 1, "has no message of a user to put the images into"),
        ([user({"type": "image", "image": "a", "min_pixels": 4})], 0, "image 0: beside its type an image has one of"),
        ([user({"type": "image", "base64": "a"})], 0, "image 0: beside its type an image has one of image, path, url"),
        ([user({"type": "image", "image": "a", "path": "b"})], 0, "image 0: beside its type an image has one of"),
        ([user({"type": "image", "path": None})], 0, "image 0: must be a path, a data URL"),
        ([user({"type": "image_url", "url": "a"})], 0, 'image 0: must be {"type": "image_url", "image_url": {"url":'),
        ([user({"type": "image_url"})], 0, "image 0: must be"),
        ([user({"type": "image_url", "image_url": {"url": 5}})], 0, "image 0: must be"),
        ([user({"type": "image_url", "image_url": {"url": "a", "size": 5}})], 0, "image 0: must be"),
        ([user({"type": "image_url", "image_url": "s3://a/b"})], 0, "image 0: is on another machine, 's3://a/b'"),
        ([user({"type": "image", "url": "no.png"}, {"type": "image", "url": "https://a/b"})], 0, "image 0: is a path"),
        ("a", ["picture", b"no"], "image 1: is no picture"),
        ("a", ["picture", None], "image 1: must be a path"),
    ],
)
def test_a_request_whose_images_do_not_fit_it_is_named(prompt, beside, words):
    given = [picture()] * beside if isinstance(beside, int) else [picture() if b == "picture" else b for b in beside]

    with pytest.raises(InputError) as caught:
        reader().read(prompt, 3, given)

    assert str(caught.value).startswith(f"request: prompt 3: {words}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "user", "content": None}, "message 1: content must be a string or a list of parts, got None"),
        ({"role": "user"}, "message 1: has no 'content'"),
        (user({"type": "audio"}), "parts of content must be .* or images, got {'type': 'audio'}"),
        (user({"type": "image", "path": "a", "x": object()}), "beside its type an image has one of"),
    ],
)
def test_a_message_that_is_none_is_named_with_images_too(message, words):
    for beside in ([], [picture()]):
        with pytest.raises(InputError, match=words):
            reader().read([message], 0, beside)


def test_a_template_that_places_no_images_is_named():
    with pytest.raises(InputError, match=r"^request: prompt 0: has 1 images, the chat template of this bundle gives 0"):
        reader("none").read([user(PLACE, words("a"))], 0, [picture()])


@pytest.mark.parametrize("prompt", ["a", [1, 2], [user(words("a"))]])
def test_images_for_a_bundle_that_takes_none_are_named(prompt):
    without = Reader(text, VOCABULARY)

    assert without.read(prompt, 0).ids == reader().read(prompt, 0).ids
    with pytest.raises(InputError, match=r"^request: prompt 0: has 1 images, and this bundle takes text alone"):
        without.read(prompt, 0, [picture()])
    with pytest.raises(InputError, match=r"^request: prompt 0: has 1 images, and this bundle takes text alone"):
        without.read([user({"type": "image", "image": "no.png"})], 0)


def test_props_whose_entries_take_no_images_are_no_entry():
    with pytest.raises(NoEntryError, match="no entry with these props takes images"):
        reader(sizes=()).read("a", 0, [picture()])


def test_a_prompt_with_images_is_not_truncated():
    prepared = reader().read("abc", 0, [picture()])

    assert prepared.last(len(prepared.ids), 0) == prepared
    with pytest.raises(InputError, match="prompt 5 has 9 tokens, images among them, and cannot be truncated to 8"):
        prepared.last(8, 5)
    assert requests.Prepared([1, 2, 3]).last(2, 0) == requests.Prepared([2, 3])


@pytest.mark.parametrize(
    ("given", "prompts", "single", "beside"),
    [
        (None, 2, False, [(), ()]),
        (["a"], 1, True, [["a"]]),
        (["a", "b"], 1, True, [["a", "b"]]),
        ([], 1, True, [[]]),
        ([["a"], []], 2, False, [["a"], []]),
        ((["a"], ("b",)), 2, False, (["a"], ("b",))),
    ],
)
def test_images_come_in_a_list_for_each_prompt(given, prompts, single, beside):
    assert options.RequestOptions.of({"images": given}).beside(prompts, single) == beside


@pytest.mark.parametrize(
    ("given", "prompts", "single", "words"),
    [
        ("a.png", 1, True, "images must be a list, got str"),
        (np.zeros((2, 2, 3), np.uint8), 1, True, "images must be a list, got ndarray"),
        (["a.png"], 1, False, "images must be a list with a list for each prompt, got list of str"),
        (picture(), 1, False, "images must be a list with a list for each prompt, got Image"),
        ([["a"]], 2, False, "1 lists of images for 2 prompts; give one for each"),
    ],
)
def test_images_that_come_otherwise_are_named(given, prompts, single, words):
    with pytest.raises(InputError, match=f"^request: {words}"):
        options.RequestOptions.of({"images": given}).beside(prompts, single)


@pytest.mark.parametrize("beside", [[picture(20, 40), picture()], []])
def test_a_result_says_what_its_images_were_brought_to(beside):
    prepared = reader().read("a", 0, beside)
    sequence = RunningSequence(0, 0, prepared, 0, 1, frozenset(), text, ())
    sequence.take([5], [0.0])

    result = sequence.result("a")

    expected = [{"height": 16, "width": 32, "tokens": 8}, {"height": 16, "width": 16, "tokens": 4}][: len(beside)]
    assert result.images == expected
    assert result.to_dict().get("images") == (expected or None)
    assert result.completed == "a" + result.text


def test_completed_keeps_the_caller_s_own_conversation():
    messages = (user({"type": "image", "image": b"not opened here"}, words("a")),)
    sequence = RunningSequence(0, 0, requests.Prepared([1]), 0, 1, frozenset(), text, ())
    sequence.take([5], [0.0])

    completed = sequence.result(messages).completed

    assert completed[0] is messages[0]
    assert completed[1]["role"] == "assistant"
